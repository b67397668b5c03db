"""Crops of labelled frames: the whole frame, its quadrants and random squares, so that S2's tiles are familiar.

Dims: b batch, s crop side (px), k label cells per side, n tokens of the first scale.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from s2robot.pipeline.pretrain.frames import FrameSet

CELLS = 4  # label cells per token and axis, at the first scale
ROBOT, FIRST_OBJECT = 2, 3  # codes of the frames
NEAREST_M = 0.05  # closer than that the logarithm would care for little else
FAR_CELLS = 8  # offsets end here


@dataclass(frozen=True)
class CropBatch:
    """Images in [-1, 1], cell targets and a random order of the tokens. `offset` is in cells (x right, y down),
    `albedo` in [0, 1]; both are NaN where there is none: on the table, before a texture.
    """

    images: Float[Tensor, "b 3 s s"]
    label: Int64[Tensor, "b k k"]
    offset: Float[Tensor, "b k k 2"]
    albedo: Float[Tensor, "b k k 3"]
    log_depth: Float[Tensor, "b k k"]
    order: Int64[Tensor, "b n"]

    def to(self, device: torch.device) -> CropBatch:
        """The batch on another device."""
        return CropBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class CropSampler:
    """`batch(step)`: crops of random frames, a pure function of (seed, step), so that sizes see the same samples.

    Crops are resized to `side_px`; labels have `cells` per side. Of a batch that several processes share, this one
    draws every `world`-th sample, from number `rank` on.
    """

    frames: FrameSet
    batch_size: int
    side_px: int
    cells: int
    seed: int
    rank: int = 0
    world: int = 1

    def __call__(self, step: int) -> CropBatch:
        rows = range(self.rank, self.batch_size, self.world)
        samples = [self._sample(np.random.default_rng((self.seed, step, row))) for row in rows]
        return CropBatch(*(torch.stack(column) for column in zip(*samples, strict=True)))

    def _sample(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        index = int(rng.integers(len(self.frames)))
        rgb = torch.from_numpy(self.frames.get("rgb", index).copy()).permute(2, 0, 1)
        x0, y0, side = _crop_box(rng, rgb.shape[-1])
        window = (slice(y0, y0 + side), slice(x0, x0 + side))
        image = rgb[(slice(None), *window)].unsqueeze(0)
        if side != self.side_px:
            image = F.interpolate(image, (self.side_px, self.side_px), mode="bicubic", antialias=True)
        image = image[0].float() / 127.5 - 1.0
        # Exposure, not colour: colour is a label.
        image = (image * rng.uniform(0.8, 1.2) + rng.uniform(-0.15, 0.15)).clamp(-1, 1)
        label, offset, albedo, log_depth = self._labels(index, window, x0, y0, side)
        if rng.random() < 0.5:
            image, label, log_depth = image.flip(-1), label.flip(-1), log_depth.flip(-1)
            offset, albedo = offset.flip(1) * torch.tensor([-1.0, 1.0]), albedo.flip(1)
        order = torch.from_numpy(rng.permutation((self.cells // CELLS) ** 2))
        return image, label, offset, albedo, log_depth, order

    def _labels(self, index: int, window: tuple[slice, slice], x0: int, y0: int, side: int) -> tuple[Tensor, ...]:
        k = self.cells
        code = torch.from_numpy(self.frames.get("code", index)[window].astype(np.float32))
        # The highest code wins a cell: objects over robot over table.
        cells = F.adaptive_max_pool2d(code[None, None], k)[0, 0].long()
        depth = torch.from_numpy(self.frames.get("depth_m", index)[window].astype(np.float32))
        log_depth = F.adaptive_avg_pool2d(depth[None, None], k)[0, 0].clamp(min=NEAREST_M).log()
        which = (cells - ROBOT).clamp(min=0)  # 0 the robot, 1 + i object i
        centre = np.concatenate([self.frames.get("robot_px", index)[-1:], self.frames.get("centre_px", index)])
        centre_cells = (torch.from_numpy(centre) - torch.tensor([x0, y0])) * (k / side)
        grid = torch.arange(k) + 0.5
        own = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), dim=-1)
        offset = (centre_cells[which] - own).clamp(-FAR_CELLS, FAR_CELLS)
        offset[cells < ROBOT] = torch.nan
        no_albedo = np.full((1, 3), np.nan, np.float32)  # of the robot
        albedo = torch.from_numpy(np.concatenate([no_albedo, self.frames.get("albedo", index)]))[which]
        albedo[cells < FIRST_OBJECT] = torch.nan
        return cells.clamp(max=FIRST_OBJECT), offset, albedo, log_depth


def _crop_box(rng: np.random.Generator, frame_px: int) -> tuple[int, int, int]:
    """Left, top and side (px): the whole frame (30 %), a quadrant (40 %) or a random square (30 %)."""
    kind, half = rng.random(), frame_px // 2
    if kind < 0.3:
        return 0, 0, frame_px
    if kind < 0.7:
        return int(rng.integers(2)) * half, int(rng.integers(2)) * half, half
    side = int(rng.integers(frame_px * 2 // 5, frame_px))
    return int(rng.integers(frame_px - side + 1)), int(rng.integers(frame_px - side + 1)), side
