"""What all probes share: one encoder's tokens of all frames, and statistics per held-out frame that sum over frames.

A function turns the sum of such statistics into the reported number. That is what a bootstrap over frames needs.

Dims: f frames, v held-out frames, n tokens, c channels, e errors of a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel over the training tokens."""
        sample = self.train[:: max(1, len(self.train) // 1000)].float().flatten(0, 1)
        return sample.mean(0), sample.std(0).clamp(min=1e-3)


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
