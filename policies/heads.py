"""What a head is: a context to an action chunk, by `loss` and `sample`, on normalised values.

Dims: b batch, s context steps, e their width, k chunk, a action.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

from jaxtyping import Bool, Float
from torch import Tensor, nn


class Head(Protocol):
    """Built as `target((s, e), (k, a), **own)`. `sample` is a pure function: the same noise gives the same chunk."""

    def loss(
        self, context: Float[Tensor, "b s e"], action: Float[Tensor, "b k a"], mask: Bool[Tensor, "b k"]
    ) -> Float[Tensor, ""]:
        """Scalar over the unmasked actions."""
        ...

    def sample(self, context: Float[Tensor, "b s e"], noise: Float[Tensor, "b k a"]) -> Float[Tensor, "b k a"]:
        """Chunks from standard normal noise, one per row."""
        ...


class Regression(nn.Module):
    """A head that predicts one chunk and is trained by its mean absolute error."""

    @abstractmethod
    def predict(self, context: Float[Tensor, "b s e"]) -> Float[Tensor, "b k a"]:
        """The chunk."""

    def loss(
        self, context: Float[Tensor, "b s e"], action: Float[Tensor, "b k a"], mask: Bool[Tensor, "b k"]
    ) -> Float[Tensor, ""]:
        """Mean absolute error over the unmasked actions."""
        return masked_mean((self.predict(context) - action).abs(), mask)

    def sample(self, context: Float[Tensor, "b s e"], noise: Float[Tensor, "b k a"]) -> Float[Tensor, "b k a"]:
        """The predicted chunk; deterministic, so the noise goes unused."""
        return self.predict(context)


def masked_mean(error: Float[Tensor, "b k a"], mask: Bool[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Mean over unmasked steps and all action elements."""
    weight = mask.unsqueeze(-1).to(error.dtype)
    return (error * weight).sum() / (weight.sum() * error.shape[-1]).clamp(min=1.0)
