"""Behaviour cloning by regression: the whole context, flat, to a chunk through an MLP.

Dims: b batch, s context steps, e their width, k chunk, a action.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from s2robot.policies.heads import Regression


class MlpRegression(Regression):
    """Two hidden layers, L1 on the chunk (action chunks as in arXiv 2304.13705, without the VAE)."""

    def __init__(self, context: tuple[int, int], action: tuple[int, int], *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.shape = action
        self.net = nn.Sequential(
            nn.Linear(context[0] * context[1], hidden), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(hidden, action[0] * action[1]),
        )  # fmt: skip

    def predict(self, context: Float[Tensor, "b s e"]) -> Float[Tensor, "b k a"]:
        """The chunk."""
        return self.net(context.flatten(1)).unflatten(1, self.shape)
