"""What every encoder offers, whatever is inside: the contract that caches, policies and reports rely on.

Dims: b images, h w image height and width (px), n = gh * gw spatial tokens, q prefix tokens, c channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from s2robot.encoders.cost import Cost
from s2robot.storage import fingerprint


class Features(NamedTuple):
    """`tokens` in row-major order over `grid` (rows, columns), and the prefix tokens apart. Always float32."""

    tokens: Float32[Tensor, "b n c"]
    grid: tuple[int, int]
    prefix: Float32[Tensor, "b q c"]


@runtime_checkable
class Encoder(Protocol):
    """`sizes` in px, ascending, empty for an encoder that sees nothing; `channels` of one token over all scales."""

    name: str
    sizes: tuple[int, ...]
    grid: tuple[int, int]
    channels: int
    fingerprint: str

    @property
    def device(self) -> torch.device:
        """Where the features are computed."""
        ...

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Features: ...

    def encode_rows(self, images: UInt8[Tensor, "b 3 h w"], rows: int = 8) -> Features:
        """As calling it, but a frame's features do not depend on the frames beside it."""
        ...

    def check_frame(self, height: int, width: int) -> None:
        """Raise S2RobotError for frames that are too small for it."""
        ...

    def cost(self, height: int | None = None, width: int | None = None) -> Cost:
        """What one image costs."""
        ...

    def spec(self) -> dict[str, Any]:
        """Description for manifests, plain JSON types."""
        ...

    def weights_sha256(self) -> str:
        """Hash of the weights as they are now: equal before and after training."""
        ...


def weights_identity(encoder: Encoder) -> str:
    """sha256 of the files that the weights came from or, of random ones, of what was drawn: the same on machines that
    compute in other precisions. Of the weights as they are now where neither is known.
    """
    origin = encoder.spec().get("origin", {})
    files, drawn = origin.get("files"), origin.get("drawn")
    return fingerprint(sorted(files.values())) if files else drawn or encoder.weights_sha256()
