"""What travels with an export to be asked of every computer that loads it: recorded frames and torch's tokens of them.

A graph is portable, its arithmetic is not: products of unsigned and signed bytes saturate on processors without VNNI,
and features that are right where they were exported may be noise elsewhere. So an export is held against its check
before it is used, within about the tolerance that it had to meet when it was written.

Dims: m frames, h w their size (px), n tokens, c channels.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from s2robot.errors import DamagedError, MismatchError

CHECK = "check.npz"
FRAMES = 5

Frames = UInt8[np.ndarray, "m h w 3"]
Tokens = Float32[np.ndarray, "m n c"]


class FeatureDifference:
    """Root mean square of the difference between features over that of the true ones, summed up frame by frame."""

    def __init__(self) -> None:
        self._difference = self._total = 0.0

    def add(self, features: Float32[np.ndarray, "n c"], truth: Float32[np.ndarray, "n c"]) -> None:
        """One frame."""
        self._difference += float(np.square(features - truth).sum())
        self._total += float(np.square(truth).sum())

    @property
    def relative_rms(self) -> float:
        """0 where nothing was compared."""
        return float(np.sqrt(self._difference / self._total)) if self._total else 0.0


@dataclass(frozen=True)
class Check:
    """Frames and torch's tokens by camera; `allowed` is the largest relative rms of what an export makes of them."""

    frames: Mapping[str, Frames]
    tokens: Mapping[str, Tokens]
    allowed: float

    def write(self, path: Path) -> None:
        """As one npz file."""
        named: dict[str, Any] = {f"frames/{camera}": frames for camera, frames in self.frames.items()}
        named |= {f"tokens/{camera}": tokens for camera, tokens in self.tokens.items()}
        np.savez_compressed(path, allowed=np.float64(self.allowed), **named)

    @classmethod
    def read(cls, path: Path) -> Check:
        """Raises DamagedError where the file is none that `write` wrote."""
        try:
            with np.load(path, allow_pickle=False) as file:
                cameras = [name.removeprefix("frames/") for name in file.files if name.startswith("frames/")]
                frames = {camera: file[f"frames/{camera}"] for camera in cameras}
                tokens = {camera: file[f"tokens/{camera}"] for camera in cameras}
                return cls(frames, tokens, float(file["allowed"]))
        except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            raise DamagedError(f"{path} holds no frames to check with; export it again") from error

    def require(self, encode: Callable[[str, Frames], Float32[np.ndarray, "n c"]], what: str) -> None:
        """Hold an export against it; `encode` makes tokens of (camera, frame). Raises MismatchError where it strays."""
        difference = FeatureDifference()
        for camera, frames in self.frames.items():
            for frame, truth in zip(frames, self.tokens[camera], strict=True):
                difference.add(encode(camera, frame), truth)
        if not difference.relative_rms <= self.allowed:
            raise MismatchError(
                f"{what} computes other features on this computer than the checkpoint: relative rms "
                f"{difference.relative_rms:.2g} on its check frames, allowed {self.allowed:g}; export it on this "
                "computer, or with precision=float32"
            )
