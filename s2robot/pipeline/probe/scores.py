"""What all probes share: one encoder's tokens of all frames, and statistics per held-out frame that sum over frames.

A function turns the sum of such statistics into the reported number. That is what a bootstrap over frames needs.

Dims: f frames, v held-out frames, n tokens, c channels, e errors of a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

MIN_PIXELS = 12  # of an object that a probe asks about

Frames = tuple[str, Float64[np.ndarray, "v ..."]]  # a head's name, and statistics per held-out frame


@dataclass(frozen=True)
class Tokens:
    """One encoder's tokens of all frames, in half precision; the last `held_out` frames are for scoring alone."""

    tokens: Float[Tensor, "f n c"]
    grid: tuple[int, int]
    held_out: int

    @property
    def train(self) -> Float[Tensor, "f n c"]:
        """Of the frames that heads may learn from."""
        return self.tokens[: -self.held_out]

    @property
    def test(self) -> Float[Tensor, "v n c"]:
        """Of the held-out frames."""
        return self.tokens[-self.held_out :]

    @cached_property
    def statistics(self) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
        """Mean and standard deviation per channel over the training tokens."""
        sample = self.train[:: max(1, len(self.train) // 1000)].float().flatten(0, 1)
        return sample.mean(0), sample.std(0).clamp(min=1e-3)

    @cached_property
    def kernels(self) -> tuple[Float64[Tensor, "f f"], Float64[Tensor, "v f"]]:
        """What `kernels` gives of the training and the held-out frames: every probe of the whole grid asks for it."""
        return kernels(self.train, self.test, *self.statistics)


def kernels(
    train: Float[Tensor, "f n c"], new: Float[Tensor, "v n c"], mean: Float[Tensor, " c"], std: Float[Tensor, " c"]
) -> tuple[Float64[Tensor, "f f"], Float64[Tensor, "v f"]]:
    """Scalar products of the standardised, centred grids of the training frames, and of new frames with them.

    Summed token by token: a whole set of grids in double precision would fill the memory for large encoders.
    """
    kernel = torch.zeros(len(train), len(train), dtype=torch.float64)
    cross = torch.zeros(len(new), len(train), dtype=torch.float64)
    for token in range(train.shape[1]):
        x, z = (((part[:, token].float() - mean) / std).double() for part in (train, new))
        centre = x.mean(0)
        kernel += (x - centre) @ (x - centre).T
        cross += (z - centre) @ (x - centre).T
    return kernel, cross


def mean(scale: float = 1.0) -> Callable[[np.ndarray], float]:
    """From (sum of errors, count)."""
    return lambda total: scale * float(total[0] / max(total[1], 1))


def sum_and_count(errors: Float[Tensor, "v e"]) -> np.ndarray:
    """(v, 2) of errors that every frame has as many of."""
    return torch.stack([errors.sum(1), torch.full((len(errors),), float(errors.shape[1]))], dim=1).double().numpy()


def balanced(total: np.ndarray) -> float:
    """From the counts of (on the table, floating) x (said to be on it, said to float)."""
    on_table, floating = total[:2].sum(), total[2:].sum()
    return 50 * float(total[0] / max(on_table, 1) + total[3] / max(floating, 1))
