"""The noise level of a generative policy as a vector.

Dims: b batch, w width.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

MAX_PERIOD, FINEST = 10_000.0, 1000.0


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
