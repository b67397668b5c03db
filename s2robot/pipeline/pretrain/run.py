"""`s2robot pretrain`: frames -> training -> a Hugging Face folder with fp16 weights.

Resumable: frames by shard, training by checkpoint. Two sizes trained with the same seed see the same crops of the
same frames in the same order, each resized to its own tile. Under torchrun each process takes its share of every
batch; the first one draws frames, logs and saves.

Dims: b batch, s crop side (px), n tokens, c channels.
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2robot.encoders import multiscale_forward
from s2robot.encoders.backbone import resolve_dtype
from s2robot.errors import MismatchError, S2RobotError
from s2robot.pipeline.checkpoint import load_tensors, newest_checkpoint, save_checkpoint
from s2robot.pipeline.curve import forget_after
from s2robot.pipeline.distributed import Group, process_group
from s2robot.pipeline.fit import Schedule, TrainState, fit
from s2robot.pipeline.pretrain.crops import CELLS, CropBatch, CropSampler
from s2robot.pipeline.pretrain.dense import DenseLabels
from s2robot.pipeline.pretrain.frames import SHARD_FRAMES, FrameSet, generate_frames
from s2robot.pipeline.pretrain.mae import PATCH, MaskedReconstruction
from s2robot.pipeline.pretrain.plot import loss_plot
from s2robot.pipeline.tokens import Prefetch
from s2robot.progress import progress, say
from s2robot.storage import append_line, publish_folder, write_atomic, write_json

HELD_OUT_SEED = 999  # of the validation crops; their frames are the last shard's
HELD_OUT_CROPS = 64  # in each of four batches
OBJECTIVES_VERSION = 2  # raised whenever the same settings would train towards something else
CPU = torch.device("cpu")
TRAIN, VALIDATION = "train.jsonl", "val.jsonl"


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run. `hidden_size`, `heads`, `layers` and `tile_px` give the ViT; the patch is 16 px.

    `dense` and `mae` weigh the objectives. `scales` are multiples of the tile that the dense objective sees at once,
    its tokens concatenated as in S2 (arXiv 2403.13043, section 3.3); (1,) trains one scale, others are added later.
    Every `keep_every` steps and at the end the weights are kept, for curves of what probes find in them; 0 keeps none.
    """

    out: str
    frames_dir: str
    frames: int
    first_seed: int
    frame_px: int
    hidden_size: int
    heads: int
    layers: int
    tile_px: int
    dense: float
    mae: float
    scales: tuple[int, ...]
    batch_size: int
    steps: int
    warmup: int
    lr: float
    weight_decay: float
    seed: int
    save_every: int
    keep_every: int
    workers: int
    threads: int

    def __post_init__(self) -> None:
        if min(self.tile_px, self.hidden_size, self.heads, self.layers) < 1:
            raise S2RobotError(
                f"tile_px={self.tile_px}, hidden_size={self.hidden_size}, heads={self.heads} and layers={self.layers} "
                "are at least 1"
            )
        if self.tile_px % PATCH or self.hidden_size % self.heads:
            raise S2RobotError(
                f"tile_px={self.tile_px} must divide by the patch of {PATCH} px and hidden_size={self.hidden_size} "
                f"by heads={self.heads}"
            )
        if min(self.steps, self.batch_size, self.save_every) < 1 or min(self.seed, self.keep_every) < 0:
            raise S2RobotError(
                f"steps={self.steps}, batch_size={self.batch_size} and save_every={self.save_every} are at least 1, "
                f"seed={self.seed} and keep_every={self.keep_every} at least 0"
            )
        if min(self.dense, self.mae) < 0 or self.dense + self.mae <= 0:
            raise S2RobotError(f"dense={self.dense}, mae={self.mae}: weights of 0 or more, one of them above 0")
        if not self.scales or self.scales[0] != 1 or list(self.scales) != sorted(set(self.scales)):
            raise S2RobotError(f"scales={list(self.scales)}; ascending multiples of the tile from 1 on, e.g. [1, 2]")
        if len(self.scales) > 1 and not self.dense:
            raise S2RobotError(f"scales={list(self.scales)} need the dense objective; mae sees one scale")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The scales in px."""
        return tuple(scale * self.tile_px for scale in self.scales)

    def recipe(self) -> dict[str, Any]:
        """What determines the weights: everything but folders and machine settings."""
        machine = {"out", "frames_dir", "save_every", "keep_every", "workers", "threads"}
        plain = json.loads(json.dumps(asdict(self)))
        return {"objectives": OBJECTIVES_VERSION} | {k: v for k, v in plain.items() if k not in machine}


class Pretrainer(nn.Module):
    """A ViT backbone (Hugging Face, class token first) and the heads of its objectives; calling it gives the loss."""

    def __init__(self, backbone: Any, config: PretrainConfig) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.sizes, self.weights = config.sizes, {"dense": config.dense, "mae": config.mae}
        self.dense = DenseLabels(config.hidden_size * len(config.scales)) if config.dense else None
        self.mae = MaskedReconstruction(backbone) if config.mae else None

    def forward(self, batch: CropBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of all terms, and each of them. The batch may lie on another device."""
        batch = batch.to(next(self.parameters()).device)
        device = batch.images.device.type
        half = resolve_dtype("auto", batch.images.device) == torch.bfloat16  # slower where a processor emulates it
        parts: dict[str, Tensor] = {}
        total = torch.zeros((), device=batch.images.device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            if self.dense is not None:
                terms = self.dense.terms(self._tokens(batch.images), batch)
                parts |= terms
                total = total + self.weights["dense"] * torch.stack(list(terms.values())).sum()
            if self.mae is not None:
                terms = self.mae.terms(self.backbone, self._one_scale(batch.images), batch.order)
                parts |= terms
                total = total + self.weights["mae"] * terms["mae"]
        return total, {name: term.detach() for name, term in parts.items()}

    def _tokens(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b n c"]:
        """Of one scale, or of several, concatenated along channels."""

        def last_hidden_state(pixels: Tensor) -> Tensor:
            return self.backbone(pixel_values=pixels).last_hidden_state

        if len(self.sizes) == 1:
            return last_hidden_state(images)[:, 1:]
        return multiscale_forward(last_hidden_state, images, self.sizes, num_prefix_tokens=1)[:, 1:]

    def _one_scale(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
        side = (self.sizes[0], self.sizes[0])
        return images if images.shape[-2:] == side else nn.functional.interpolate(images, side, mode="area")


def pretrain(config: PretrainConfig, device: str = "cpu") -> Path:
    """Run to the end (or go on where a run stopped) and return the folder of the finished weights.

    Raises S2RobotError where the batch does not divide by the processes, MismatchError for another recipe's folder.
    """
    with process_group(device) as group:
        if config.batch_size % group.world:
            raise S2RobotError(f"batch_size={config.batch_size} does not divide by {group.world} processes")
        if group.first:
            generate_frames(Path(config.frames_dir), config.frames, config.first_seed, config.frame_px, config.workers)
        group.wait()
        return _train(config, group)


def _train(config: PretrainConfig, group: Group) -> Path:
    out = Path(config.out)
    frames = FrameSet(Path(config.frames_dir), config.frames)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    module = Pretrainer(build_vit(config, group.device), config).to(group.device)
    schedule = Schedule(config.lr, config.steps, config.warmup)
    state = TrainState.create(module, schedule, seed=config.seed, weight_decay=config.weight_decay)
    out.mkdir(parents=True, exist_ok=True)
    precision = str(resolve_dtype("auto", group.device)).removeprefix("torch.")
    recipe = {**config.recipe(), "processes": group.world, "precision": precision, "frames": frames.fingerprint()}
    _resume(state, out / "checkpoints", recipe)
    if group.first:
        for name in (TRAIN, VALIDATION):
            forget_after(out / name, state.step)
    train, held_out = frames.split(last=SHARD_FRAMES)
    side_px, cells = config.sizes[-1], CELLS * config.tile_px // PATCH
    crops = CropSampler(train, config.batch_size, side_px, cells, config.seed, group.rank, group.world)
    validation = [CropSampler(held_out, HELD_OUT_CROPS, side_px, cells, HELD_OUT_SEED)(i) for i in range(4)]
    compute, parts = group.wrap(module), dict[str, Tensor]()

    def loss(batch: Any) -> Tensor:
        total, terms = compute(batch)
        parts.update(terms)
        return total

    cutters = max(1, config.workers) if group.device.type == "cuda" else 1  # a GPU would wait for one
    with Prefetch(crops, cutters) as ahead:
        records = fit(loss, ahead, state)
        if not group.first:
            for _ in records:
                pass
            return out / "weights"
        for record in progress(records, config.steps, f"pretrain {out.name}", "step", state.step):
            if record.step % 20 == 0:
                line = {"step": record.step, "loss": float(record.loss), "lr": record.lr}
                append_line(out / TRAIN, json.dumps(line | {k: float(v) for k, v in parts.items()}))
            last = record.step == config.steps
            if config.keep_every and (record.step % config.keep_every == 0 or last):
                (out / "kept").mkdir(exist_ok=True)  # before the checkpoint: a resumed run starts behind it
                export_weights(module.backbone, config, out / "kept" / f"step-{record.step:06d}", frames.fingerprint())
            if record.step % config.save_every == 0 or last:
                append_line(out / VALIDATION, json.dumps({"step": record.step, **_validate(module, validation)}))
                files = {"train_state": state.tensors()}
                save_checkpoint(out / "checkpoints", record.step, files, {"recipe": recipe})
                write_atomic(out / "loss.png", loss_plot(out / TRAIN, out / VALIDATION))
    return export_weights(module.backbone, config, out / "weights", frames.fingerprint())


def _resume(state: TrainState, folder: Path, recipe: dict[str, Any]) -> None:
    """Load the newest intact checkpoint into `state`. Raises MismatchError when it belongs to another recipe."""
    found = newest_checkpoint(folder)
    if found is None:
        return
    path, manifest = found
    if manifest["recipe"] != recipe:
        changed = sorted(k for k in {*recipe, *manifest["recipe"]} if recipe.get(k) != manifest["recipe"].get(k))
        raise MismatchError(
            f"{folder} was trained with another recipe ({', '.join(changed)}); give another out= folder"
        )
    state.restore(load_tensors(path, "train_state"), manifest["step"])
    say(f"resuming {folder.parent.name} at step {state.step}")


def build_vit(config: PretrainConfig, device: torch.device = CPU) -> Any:
    """A randomly initialised Hugging Face ViT; with plain attention on the CPU, where SDPA's backward is slower."""
    from transformers import ViTConfig, ViTModel

    shape = ViTConfig(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.hidden_size,
        image_size=config.tile_px,
        patch_size=16,
        layer_norm_eps=1e-6,
        attn_implementation="eager" if device.type == "cpu" else "sdpa",
    )
    return ViTModel(shape, add_pooling_layer=False)


def export_weights(backbone: Any, config: PretrainConfig, folder: Path, frames_sha256: str) -> Path:
    """Write a Hugging Face folder in one rename: fp16 weights in files of at most 14 MB, preprocessing and recipe."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy.deepcopy(backbone).cpu().half().save_pretrained(partial, max_shard_size="14MB")
    preprocessing = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": config.tile_px, "width": config.tile_px},
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    write_json(partial / "preprocessor_config.json", preprocessing)
    write_json(partial / "recipe.json", {"recipe": config.recipe(), "frames_sha256": frames_sha256})
    shutil.rmtree(folder, ignore_errors=True)
    for path in partial.iterdir():
        path.chmod(0o644)  # safetensors makes its files private
    publish_folder(partial, folder)
    return folder


@torch.no_grad()
def _validate(module: Pretrainer, batches: list[CropBatch]) -> dict[str, float]:
    """Mean of every term."""
    module.eval()
    rows = [module(batch)[1] for batch in batches]
    return {k: float(torch.stack([row[k] for row in rows]).mean()) for k in rows[0]}
