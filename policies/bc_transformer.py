"""Behaviour cloning by a transformer decoder: one learned query per action attends to the context.

Dims: b batch, s context steps, e their width, k chunk, a action.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from s2robot.policies.heads import masked_mean
from s2robot.policies.transformer import ContextDecoder


class TransformerRegression(nn.Module):
    """L1 on the chunk; ACT's decoder (arXiv 2304.13705, section 4) without its VAE."""

    def __init__(
        self, context: tuple[int, int], action: tuple[int, int], *, width: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.decoder = ContextDecoder(context, action[0], width, layers, heads, dropout, causal=False)
        self.out = nn.Linear(width, action[1])

    def loss(
        self, context: Float[Tensor, "b s e"], action: Float[Tensor, "b k a"], mask: Bool[Tensor, "b k"]
    ) -> Float[Tensor, ""]:
        """Mean absolute error over the unmasked actions."""
        return masked_mean((self._predict(context) - action).abs(), mask)

    def sample(self, context: Float[Tensor, "b s e"], noise: Float[Tensor, "b k a"]) -> Float[Tensor, "b k a"]:
        """The predicted chunk; deterministic, so the noise goes unused."""
        return self._predict(context)

    def _predict(self, context: Float[Tensor, "b s e"]) -> Float[Tensor, "b k a"]:
        return self.out(self.decoder(None, context, None))
