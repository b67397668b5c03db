"""How much of a larger encoder's features a linear map finds in another's (arXiv 2403.13043, Table 2).

One linear map from a token of the source to the target's token at the same place is fitted by least squares. Printed
are l, its mean squared error on held-out frames, l0, that of the best constant, the mutual information bound
I = -log2(l / l0) in bits, R2 = 1 - l / l0, and r = I / I*, where I* is what a still larger encoder gets. A high r
beside a low R2 says that neither finds much.

Dims: f frames, v held-out frames, n tokens, c channels of the source, d of the target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from s2robot.pipeline.probe.scores import Tokens

PENALTY = 1e-4  # of the mean diagonal: keeps channels that never vary from dividing by zero
BLOCK = 200  # frames per step of the sums


@dataclass(frozen=True)
class Reconstruction:
    """Source to target, on held-out frames; `ci95` of R2 is a bootstrap over frames. `ratio` needs a ceiling."""

    source: str
    target: str
    loss: float
    loss_constant: float
    bits: float
    r2: float
    r2_ci95: tuple[float, float]
    bits_ceiling: float | None = None
    ratio: float | None = None


def frame_errors(source: Tokens, target: Tokens) -> Float64[np.ndarray, "v 2"]:
    """Mean squared error per held-out frame: of the linear map, and of the constant."""
    channels, outputs = source.tokens.shape[-1], target.tokens.shape[-1]
    xx = torch.zeros(channels + 1, channels + 1, dtype=torch.float64)
    xy = torch.zeros(channels + 1, outputs, dtype=torch.float64)
    for x, y in zip(source.train.split(BLOCK), target.train.split(BLOCK), strict=True):
        flat = _with_one(_regrid(x, source.grid, target.grid))
        xx += flat.T @ flat
        xy += flat.T @ y.double().flatten(0, 1)
    count = xx[-1, -1]
    ridge = PENALTY * xx.diagonal()[:-1].mean() * torch.eye(channels + 1, dtype=torch.float64)
    ridge[-1, -1] = 0  # the intercept is free
    weights, constant = torch.linalg.solve(xx + ridge, xy), xy[-1] / count
    errors = []
    for x, y in zip(source.test.split(BLOCK), target.test.split(BLOCK), strict=True):
        true = y.double()
        guess = (_with_one(_regrid(x, source.grid, target.grid)) @ weights).view_as(true)
        both = [(true - guess).square(), (true - constant).square()]
        errors.append(torch.stack([error.mean(dim=(1, 2)) for error in both], dim=1))
    return torch.cat(errors).numpy()


def reconstruct(
    source_name: str,
    source: Tokens,
    target_name: str,
    target: Tokens,
    ceiling: Tokens | None = None,
    resamples: int = 2000,
) -> Reconstruction:
    """Figures of one pair; `ceiling` is the still larger encoder of I*."""
    errors = frame_errors(source, target)
    draws = np.random.default_rng(0).multinomial(len(errors), np.full(len(errors), 1 / len(errors)), resamples)
    sums = draws @ errors
    low, high = np.percentile(1 - sums[:, 0] / sums[:, 1], [2.5, 97.5])
    loss, constant = errors.mean(0)
    bits = -math.log2(loss / constant)
    best = None
    if ceiling is not None:
        ceiling_errors = frame_errors(ceiling, target).mean(0)
        best = -math.log2(ceiling_errors[0] / ceiling_errors[1])
    return Reconstruction(
        source_name,
        target_name,
        float(loss),
        float(constant),
        bits,
        1 - float(loss / constant),
        (float(low), float(high)),
        best,
        None if best is None else bits / best,
    )


def _regrid(tokens: Float[Tensor, "f n c"], grid: tuple[int, int], wanted: tuple[int, int]) -> Float[Tensor, "f m c"]:
    """The map at another grid, bilinear, antialiased when it shrinks."""
    if grid == wanted:
        return tokens.float()
    maps = tokens.float().transpose(1, 2).unflatten(2, grid)
    return F.interpolate(maps, wanted, mode="bilinear", antialias=True).flatten(2).transpose(1, 2)


def _with_one(tokens: Float[Tensor, "f n c"]) -> Float64[Tensor, "m c"]:
    """All tokens as rows, with a constant for the intercept."""
    flat = tokens.double().flatten(0, 1)
    return torch.cat([flat, torch.ones(len(flat), 1, dtype=torch.float64)], dim=1)
