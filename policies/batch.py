"""What a policy is trained on and what it declares: one batch layout for all of them.

Dims: b batch, o observation horizon, n tokens, c channels, p proprioception, g goal, k chunk, a action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """Normalised inputs of a batch of decisions; `tokens` by camera, as the frozen encoder gave them."""

    tokens: Mapping[str, Float[Tensor, "b o n c"]]
    proprio: Float[Tensor, "b o p"]
    goal: Float[Tensor, "b g"]


@dataclass(frozen=True)
class Batch:
    """Inputs with normalised action chunks; `mask` is False where the chunk runs past the episode's end.

    `weight` is 1, but for one process's share of a batch: its unmasked actions over the mean of all shares.
    """

    inputs: Inputs
    action: Float[Tensor, "b k a"]
    mask: Bool[Tensor, "b k"]
    object_xy: Float[Tensor, "b 2"] | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Shapes:
    """Sizes that follow from dataset and encoder, not from taste. A blind policy has no cameras.

    `channels` are those of all `scales` of an S2 encoder, one scale after the other.
    """

    cameras: tuple[str, ...]
    grid: tuple[int, int]
    channels: int
    proprio: int
    goal: int
    action: int
    scales: int = 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; `Shapes.from_json` is the inverse."""
        return {**asdict(self), "cameras": list(self.cameras), "grid": list(self.grid)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Shapes:
        """Inverse of `to_json`."""
        return cls(**{**data, "cameras": tuple(data["cameras"]), "grid": tuple(data["grid"])})
