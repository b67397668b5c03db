"""Dense pre-training of the embedded encoders on what the simulator knows for free.

Every token predicts, for 4 x 4 cells of its patch: what is there (background, table, robot, object), the offset to
the object's centre (on the robot: to its grip site), the object's colour before light, and depth. The head is linear
and thrown away, so position, extent and colour have to stand in the tokens. Objects win a cell that they share: a 1 cm
cube is one or two pixels.

Crops are the whole frame, its four quadrants and random squares, so that S2's tiles are not out of distribution.

Dims: b batch, n tokens (g x g), k cells (4 per token and axis), s crop side (px).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from s2robot.pipeline.frames import FrameSet

CELLS = 4  # per token and axis
CLASSES = 4  # background, table, robot, object
ROBOT = 2
NEAREST_M = 0.05  # closer than that the logarithm would care for little else
OUTPUTS = CLASSES + 2 + 3 + 1  # + centre offset, albedo, log depth
FIRST_OBJECT = 3


@dataclass(frozen=True)
class DenseBatch:
    """Images in [-1, 1] and cell targets. `offset` is in cells (x right, y down), `albedo` in [0, 1]; both are NaN
    where there is none: on the table, before a texture.
    """

    images: Float[Tensor, "b 3 s s"]
    label: Int64[Tensor, "b k k"]
    offset: Float[Tensor, "b k k 2"]
    albedo: Float[Tensor, "b k k 3"]
    log_depth: Float[Tensor, "b k k"]

    def to(self, device: torch.device) -> DenseBatch:
        """The batch on another device."""
        return DenseBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


class DensePretrainer(nn.Module):
    """A ViT backbone (Hugging Face, CLS first) with a linear dense head."""

    def __init__(self, backbone: Any, patch: int) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.patch = patch
        self.head = nn.Linear(backbone.config.hidden_size, OUTPUTS * CELLS * CELLS)

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b k k o"]:
        """Cell outputs, `k = 4 * s / patch`."""
        tokens = self.backbone(pixel_values=images).last_hidden_state[:, 1:]
        b, g = len(images), images.shape[-1] // self.patch
        cells = self.head(tokens).view(b, g, g, CELLS, CELLS, OUTPUTS)
        return cells.permute(0, 1, 3, 2, 4, 5).reshape(b, g * CELLS, g * CELLS, OUTPUTS)

    def loss(self, batch: DenseBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the four terms, and each of them. The batch may lie on another device."""
        batch = batch.to(self.head.weight.device)
        with torch.autocast(batch.images.device.type, dtype=torch.bfloat16):
            cells = self(batch.images)
        logits, offset, albedo, log_depth = cells.float().split([CLASSES, 2, 3, 1], dim=-1)
        weight = torch.tensor([1.0, 1.0, 1.5, 6.0], device=logits.device)  # objects fill about 2 % of the cells
        parts = {
            "class": F.cross_entropy(logits.flatten(0, 2), batch.label.flatten(), weight=weight),
            "offset": _mean_where_known(F.smooth_l1_loss, offset, batch.offset),
            "albedo": 4.0 * _mean_where_known(F.l1_loss, albedo, batch.albedo),
            "depth": F.smooth_l1_loss(log_depth.squeeze(-1), batch.log_depth),
        }
        return torch.stack(list(parts.values())).sum(), {k: v.detach() for k, v in parts.items()}


def _mean_where_known(loss: Callable[..., Tensor], guess: Tensor, target: Tensor) -> Tensor:
    """Mean of `loss` over the entries of `target` that are not NaN; 0 where all are."""
    known = ~target.isnan()
    errors = loss(guess, target.nan_to_num(), reduction="none") * known
    return errors.sum() / known.sum().clamp(min=1)


@dataclass(frozen=True)
class CropSampler:
    """`batch(step)`: crops of random frames, a pure function of (seed, step), so that sizes see the same samples."""

    frames: FrameSet
    batch_size: int
    tile_px: int
    patch: int
    seed: int

    def __call__(self, step: int) -> DenseBatch:
        rng = np.random.default_rng((self.seed, step))
        samples = [self._sample(rng) for _ in range(self.batch_size)]
        return DenseBatch(*(torch.stack(column) for column in zip(*samples, strict=True)))

    def _sample(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        index = int(rng.integers(len(self.frames)))
        rgb = torch.from_numpy(self.frames.get("rgb", index).copy()).permute(2, 0, 1)
        x0, y0, side = _crop_box(rng, rgb.shape[-1])
        window = (slice(y0, y0 + side), slice(x0, x0 + side))
        image = rgb[(slice(None), *window)].unsqueeze(0)
        if side != self.tile_px:
            size = (self.tile_px, self.tile_px)
            image = F.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False)
        image = image[0].float() / 127.5 - 1.0
        image = (image * rng.uniform(0.8, 1.2) + rng.uniform(-0.15, 0.15)).clamp(
            -1, 1
        )  # exposure, not colour: it is a label
        k = CELLS * self.tile_px // self.patch
        code = torch.from_numpy(self.frames.get("code", index)[window].astype(np.float32))
        cells = F.adaptive_max_pool2d(code[None, None], k)[
            0, 0
        ].long()  # the highest code wins: objects over robot over table
        depth = torch.from_numpy(self.frames.get("depth_m", index)[window].astype(np.float32))
        log_depth = F.adaptive_avg_pool2d(depth[None, None], k)[0, 0].clamp(min=NEAREST_M).log()
        which = (cells - ROBOT).clamp(min=0)  # 0 the robot, 1 + i object i
        centre = np.concatenate([self.frames.get("robot_px", index)[-1:], self.frames.get("centre_px", index)])
        centre_cells = (torch.from_numpy(centre) - torch.tensor([x0, y0])) * (k / side)
        grid = torch.arange(k) + 0.5
        own = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), dim=-1)
        offset = (centre_cells[which] - own).clamp(-8, 8)
        offset[cells < ROBOT] = torch.nan
        no_albedo = np.full((1, 3), np.nan, np.float32)  # of the robot
        albedo = torch.from_numpy(np.concatenate([no_albedo, self.frames.get("albedo", index)]))[which]
        albedo[cells < FIRST_OBJECT] = torch.nan
        label = cells.clamp(max=FIRST_OBJECT)
        if rng.random() < 0.5:
            image, label, log_depth = image.flip(-1), label.flip(-1), log_depth.flip(-1)
            offset, albedo = offset.flip(1) * torch.tensor([-1.0, 1.0]), albedo.flip(1)
        return image, label, offset, albedo, log_depth


def _crop_box(rng: np.random.Generator, frame_px: int) -> tuple[int, int, int]:
    """Left, top and side (px): the whole frame (30 %), a quadrant (40 %) or a random square (30 %)."""
    kind, half = rng.random(), frame_px // 2
    if kind < 0.3:
        return 0, 0, frame_px
    if kind < 0.7:
        return int(rng.integers(2)) * half, int(rng.integers(2)) * half, half
    side = int(rng.integers(frame_px * 2 // 5, frame_px))
    return int(rng.integers(frame_px - side + 1)), int(rng.integers(frame_px - side + 1)), side
