"""How well a whole model memorises: every frame is a class of its own (arXiv 2403.13043, section 3.3).

Unlike in any probe the backbone is trained too, from the encoder's weights and at its scales, with a linear classifier
on the mean of its tokens. All models take the same steps on the same frames in the same order and are scored on those
very frames: the lower the loss, the more the model holds.

Dims: b frames of a batch, f frames, s side of the squared frame (px), n tokens, k classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from s2robot.encoders import load_encoder
from s2robot.encoders.backbone import ChoosesAttention, resolve_dtype
from s2robot.encoders.encoder import MultiscaleEncoder
from s2robot.encoders.interface import weights_identity
from s2robot.errors import S2RobotError
from s2robot.pipeline.fit import Schedule, TrainState, fit
from s2robot.pipeline.probe.frames import FrameRecipe, draw_frames, load_rgb
from s2robot.pipeline.probe.run import VERSION, WEIGHTS, ProbeConfig, bootstrap
from s2robot.pipeline.probe.scores import mean, sum_and_count
from s2robot.progress import progress
from s2robot.storage import fingerprint, read_json, write_json

BATCH, LR, WEIGHT_DECAY = 64, 5e-4, 0.05
SCORED = 50  # frames at a time


@dataclass(frozen=True)
class Capacity:
    """Mean cross-entropy in nats over the memorised frames, with a bootstrap over them; `guess` is that of guessing."""

    encoder: str
    weights: str
    frames: int
    steps: int
    nats: float
    ci95: tuple[float, float]
    guess: float


def run_capacities(config: ProbeConfig) -> list[Capacity]:
    """Every encoder's; none where no frames are to be memorised. What is finished is kept."""
    if not config.capacity:
        return []
    recipe = FrameRecipe("scenes", None, "", config.frame_px, config.capacity)
    paths = draw_frames(recipe, Path(config.out) / "frames" / recipe.source, config.workers)
    images = torch.from_numpy(np.concatenate([load_rgb(path) for path in paths])).permute(0, 3, 1, 2)
    asked = {"version": VERSION, "frames": [recipe.identity(), recipe.frames], "steps": config.capacity_steps}
    asked |= {"batch": BATCH, "lr": LR, "weight_decay": WEIGHT_DECAY}
    return [_capacity(config, name, about, images, asked) for name, about in config.encoder_configs().items()]


def _capacity(
    config: ProbeConfig, name: str, about: Mapping[str, Any], images: UInt8[Tensor, "f 3 h w"], asked: dict[str, Any]
) -> Capacity:
    encoder = load_encoder(about, config.device, dtype="float32")
    if not isinstance(encoder, MultiscaleEncoder):
        raise S2RobotError(f"encoder {name!r} has no backbone that could memorise; leave it out or give capacity=0")
    path = Path(config.out) / "parts" / f"capacity-{fingerprint(asked | {'encoder': encoder.fingerprint})[:16]}.json"
    if not path.exists():
        errors = memorise(Memoriser(encoder, len(images)), images, config.capacity_steps, f"memorise {name}")
        frames = sum_and_count(errors.unsqueeze(1))
        low, high = bootstrap(frames[None], mean())
        weights = weights_identity(encoder)[:WEIGHTS]
        nats = float(errors.mean())
        found = Capacity(name, weights, len(images), config.capacity_steps, nats, (low, high), math.log(len(images)))
        write_json(path, asdict(found))
    kept = read_json(path)
    return Capacity(**{**kept, "encoder": name, "ci95": tuple(kept["ci95"])})


class Memoriser(nn.Module):
    """A trainable copy of an encoder's backbone at the encoder's scales, and a classifier of `classes` frames."""

    def __init__(self, encoder: MultiscaleEncoder, classes: int) -> None:
        super().__init__()
        self.prepare = encoder.normalised_squares
        vision: Any = copy.deepcopy(encoder.backbone.model)
        self.vision = vision.requires_grad_(True)
        if isinstance(self.vision, ChoosesAttention) and encoder.device.type == "cpu":
            self.vision.choose_attention(plain=True)  # the fused kernel is slow backwards
        self.multiscale = encoder.multiscale
        torch.manual_seed(0)
        self.classify = nn.Sequential(nn.LayerNorm(encoder.channels), nn.Linear(encoder.channels, classes))
        self.classify.to(encoder.device)

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Logits."""
        squares = self.prepare(images)
        half = resolve_dtype("auto", squares.device) == torch.bfloat16
        with torch.autocast(squares.device.type, torch.bfloat16, enabled=half):
            return self.classify(self.multiscale(self.vision, squares).map.mean(dim=(2, 3))).float()


def memorise(
    model: Memoriser, images: UInt8[Tensor, "f 3 h w"], steps: int, label: str = "memorise"
) -> Float[Tensor, " f"]:
    """Train on frame -> its index for `steps` steps; every frame's cross-entropy then."""
    batch = min(BATCH, len(images))
    per_epoch = len(images) // batch

    def rows(step: int) -> Tensor:
        order = np.random.default_rng((0, step // per_epoch)).permutation(len(images))
        return torch.from_numpy(order[step % per_epoch * batch :][:batch])

    def loss(index: Tensor) -> Tensor:
        logits = model(images[index])
        return F.cross_entropy(logits, index.to(logits.device))

    state = TrainState.create(model, Schedule(LR, steps, steps // 10), seed=0, weight_decay=WEIGHT_DECAY, ema=False)
    for _ in progress(fit(loss, rows, state), steps, label, "step"):
        pass
    model.eval()
    with torch.no_grad():
        parts = [
            F.cross_entropy(model(images[index]).cpu(), index, reduction="none")
            for index in torch.arange(len(images)).split(SCORED)
        ]
    return torch.cat(parts)
