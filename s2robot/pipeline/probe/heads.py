"""The two kinds of head that read frozen tokens: linear ones, and small networks trained by the one loop.

Dims: f frames, n tokens, c channels, m goals, d targets, g rows and columns of the token grid, k cells per side of a
dense map, u samples, e inputs of a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64
from torch import Tensor, nn

from s2robot.pipeline.fit import Schedule, TrainState, fit
from s2robot.policies.observation import Standardise
from s2robot.policies.pools import KeypointPool

CELLS = 28  # per side of a dense map: both 7 x 7 and 14 x 14 tokens divide it
RIDGE_FOLD = 5  # every fifth training frame chooses the penalty
PENALTIES = tuple(10.0**i for i in range(-2, 7))


@dataclass(frozen=True)
class Training:
    """How a small head is trained."""

    steps: int = 1500
    batch: int = 128
    lr: float = 2e-3
    seed: int = 0


def train_head(head: nn.Module, loss: Callable[[Any], Tensor], count: int, training: Training) -> nn.Module:
    """Fit `head`; `loss` takes the indices of a batch out of `count` samples. Returns it in evaluation mode."""

    def batches(step: int) -> Tensor:
        # numpy's stream: torch's is seeded by the loop, and two draws from one stream would go together.
        rows = np.random.default_rng((training.seed, step)).integers(count, size=min(training.batch, count))
        return torch.from_numpy(rows)

    schedule = Schedule(training.lr, training.steps, training.steps // 20)
    state = TrainState.create(head, schedule, seed=training.seed, weight_decay=1e-2, ema=True)
    for _ in fit(loss, batches, state):
        pass
    return state.best.eval()


def ridge(
    kernel: Float64[Tensor, "f f"], cross: Float64[Tensor, "v f"], y: Float[Tensor, "f d"]
) -> Float32[Tensor, "v d"]:
    """Ridge regression with an intercept, in its dual form: predictions for the new frames of `cross`.

    The penalty, relative to the mean diagonal of the kernel, is the one of PENALTIES (over 1e3) that predicts every
    fifth training frame best from the others.
    """
    mean = y.double().mean(0)
    target = y.double() - mean
    scale = kernel.diagonal().mean().clamp(min=1e-6) / 1e3  # constant features have a kernel of zeros
    held = torch.arange(len(kernel)) % RIDGE_FOLD == 0
    values, vectors = torch.linalg.eigh(kernel[~held][:, ~held])
    rotated = vectors.T @ target[~held]

    def error(penalty: float) -> float:
        weights = vectors @ (rotated / (values + penalty * scale)[:, None])
        return float((kernel[held][:, ~held] @ weights - target[held]).square().mean())

    return (cross @ dual_weights(kernel, target, float(scale) * min(PENALTIES, key=error)) + mean).float()


def dual_weights(
    kernel: Float64[Tensor, "f f"], target: Float64[Tensor, "f d"], penalty: float
) -> Float64[Tensor, "f d"]:
    """Weights of the training frames at a given penalty."""
    return torch.linalg.solve(kernel + penalty * torch.eye(len(kernel), dtype=torch.float64), target)


class GridHead(nn.Module):
    """The policies' keypoint pool and two layers: tokens and a goal to `d` values."""

    def __init__(self, grid: tuple[int, int], channels: int, goals: int, outputs: int) -> None:
        super().__init__()
        self.standardise = Standardise(channels, dropout=0.1)
        self.pool = KeypointPool(grid, channels, goals, hidden=64, keypoints=16, value_dim=16, dim=256)
        self.out = nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Linear(256, outputs))

    def forward(self, tokens: Float[Tensor, "b n c"], goal: Float[Tensor, "b m"]) -> Float[Tensor, "b d"]:
        """One prediction per frame and goal."""
        return self.out(self.pool(self.standardise(tokens.unsqueeze(1)), goal)[:, 0])


class DenseHead(nn.Module):
    """Every token predicts the cells of its own patch; the map is resized to CELLS x CELLS.

    `hidden=0` is linear in the token.
    """

    def __init__(self, grid: tuple[int, int], mean: Tensor, std: Tensor, outputs: int, hidden: int = 0) -> None:
        super().__init__()
        self.grid, self.outputs = grid, outputs
        self.cells = -(-CELLS // min(grid))  # per token and side
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        wide = outputs * self.cells**2
        self.net = (
            nn.Sequential(nn.Linear(len(mean), hidden), nn.GELU(), nn.Linear(hidden, wide))
            if hidden
            else nn.Linear(len(mean), wide)
        )

    mean: Tensor
    std: Tensor

    def forward(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b d k k"]:
        """The map of `d` values per cell."""
        rows, columns = self.grid
        cells = self.net((tokens.float() - self.mean) / self.std)
        cells = cells.view(len(tokens), rows, columns, self.cells, self.cells, self.outputs)
        maps = cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        if maps.shape[-2:] == (CELLS, CELLS):
            return maps
        return F.interpolate(maps, (CELLS, CELLS), mode="bilinear", antialias=True)


def sample_at(
    tokens: Float[Tensor, "f n c"],
    grid: tuple[int, int],
    frame: Tensor,
    place: Float[Tensor, "u 2"],
) -> Float32[Tensor, "u e"]:
    """What stands in the tokens at `place` (x, y in [0, 1]) of `frame`: bilinear, and the place within the cell.

    Of a single token the place would be that in the whole frame, which only the constant predictor has: it gets none.
    """
    rows, columns = grid
    parts = []
    for block in torch.arange(len(frame)).split(1024):
        maps = tokens[frame[block]].float().transpose(1, 2).unflatten(2, grid)
        at = (2 * place[block] - 1).view(-1, 1, 1, 2)
        parts.append(F.grid_sample(maps, at, align_corners=False, padding_mode="border")[..., 0, 0])
    within = (place * torch.tensor([columns, rows])) % 1 if rows * columns > 1 else torch.zeros_like(place)
    return torch.cat([torch.cat(parts), within], dim=1)


def mlp(inputs: int, outputs: int, hidden: int = 256) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs)
    )


def in_batches(function: Callable[[Tensor], Tensor], tokens: Float[Tensor, "f n c"], rows: int = 256) -> Tensor:
    """`function` of all frames' tokens, a few frames at a time, without gradients."""
    with torch.no_grad():
        return torch.cat([function(part) for part in tokens.split(rows)])
