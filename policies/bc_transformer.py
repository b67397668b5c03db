"""Behaviour cloning by a transformer decoder: a query per action, the newest observation and a place, attends to all.

Dims: b batch, s context steps, e their width, k chunk, a action.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from s2robot.policies.heads import Regression
from s2robot.policies.transformer import ContextDecoder


class TransformerRegression(Regression):
    """L1 on the chunk; ACT's decoder (arXiv 2304.13705, section 4) without its VAE."""

    def __init__(
        self, context: tuple[int, int], action: tuple[int, int], *, width: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.decoder = ContextDecoder(context, action[0], width, layers, heads, dropout, causal=False)
        self.out = nn.Linear(width, action[1])

    def predict(self, context: Float[Tensor, "b s e"]) -> Float[Tensor, "b k a"]:
        """The chunk."""
        steps = context.new_zeros(len(context), *self.decoder.place.shape)  # the decoder adds to them
        return self.out(self.decoder(steps, self.decoder.memory(context)))
