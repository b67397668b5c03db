"""What generative heads ask of their nets: the noise level as a vector, the context once, then noisy chunks to guesses.

Dims: b batch, s context steps, e their width, k chunk, a action, w width of the net.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

MAX_PERIOD, FINEST = 10_000.0, 1000.0


class Denoiser(Protocol):
    """Built as `target((s, e), (k, a), **own)`."""

    time: TimeEmbedding

    def prepare(self, context: Float[Tensor, "b s e"]) -> Float[Tensor, "b ..."]:
        """What the context contributes, the same at every noise level."""
        ...

    def __call__(
        self, noisy: Float[Tensor, "b k a"], moment: Float[Tensor, "b w"], prepared: Float[Tensor, "b ..."]
    ) -> Float[Tensor, "b k a"]:
        """The guess for a noisy chunk; `moment` is `time` of its noise level, `prepared` comes from `prepare`."""
        ...


class TimeEmbedding(nn.Module):
    """Sines and cosines of geometric frequencies (arXiv 1706.03762, section 3.5), then two layers."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.register_buffer(
            "frequencies", FINEST * torch.exp(-math.log(MAX_PERIOD) * torch.arange(half) / half), persistent=False
        )
        self.net = nn.Sequential(nn.Linear(2 * half, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, time: Float[Tensor, " b"]) -> Float[Tensor, "b w"]:
        """`time` in [0, 1]."""
        angle = time.unsqueeze(1) * self.frequencies
        return self.net(torch.cat([angle.sin(), angle.cos()], dim=1))
