"""The encoder that sees nothing: the control arm which asks whether a policy uses its images at all.

Dims: b images, h w image height and width (px).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from s2robot.encoders.backbone import resolve_device
from s2robot.encoders.cost import Cost
from s2robot.encoders.interface import Features
from s2robot.storage import fingerprint, sha256_bytes


class BlindEncoder:
    """An encoder with no sizes, no tokens, no weights and no cost, so that its arm needs no branch elsewhere.

    A caller that wants to save the rendering checks `encoder.sizes`, which is empty.
    """

    name = "blind"
    sizes: tuple[int, ...] = ()
    grid = (0, 0)
    channels = 0

    def __init__(self, device: str = "auto", dtype: str = "auto") -> None:
        self._device = resolve_device(device)
        self.fingerprint = fingerprint({"name": self.name, "sizes": []})

    @property
    def device(self) -> torch.device:
        """Where its empty features are made."""
        return self._device

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Features:
        """No token per image, on the encoder's device."""
        nothing = images.new_empty((len(images), 0, 0), dtype=torch.float32, device=self.device)
        return Features(nothing, self.grid, nothing)

    def encode_rows(self, images: UInt8[Tensor, "b 3 h w"], rows: int = 8) -> Features:
        """The same: nothing depends on the batch."""
        return self(images)

    def check_frame(self, height: int, width: int) -> None:
        """Frames of any size will do."""

    def cost(self, height: int | None = None, width: int | None = None) -> Cost:
        """Zero throughout."""
        return Cost(gmac=0.0, params=0, tiles=0, tokens=0)

    def spec(self) -> dict[str, Any]:
        """Description for manifests, with the keys that every encoder has."""
        return {
            "name": self.name,
            "sizes": [],
            "grid": [0, 0],
            "channels": 0,
            "num_prefix_tokens": 0,
            "dtype": "float32",
            "weights_sha256": self.weights_sha256(),
            "fingerprint": self.fingerprint,
        }

    def weights_sha256(self) -> str:
        """Hash of no weights."""
        return sha256_bytes(b"")
