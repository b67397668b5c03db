"""Feature cache: the frozen encoder's tokens, computed once per frame and shared by every policy.

Dims: t time steps, n tokens per frame, c channels, h w image height and width (px).

A value is the token array of one camera of one episode under one view, in one safetensors file. Its key is made of
fingerprints, so that a changed frame or another encoder simply is another key. A file that is missing or fails its
checksum counts as not encoded.

View 0 is the plain frame; in view k > 0 every frame has a small seeded random shift of its own, so that augmentation
survives caching (random shifts: Kostrikov et al., "Image Augmentation Is All You Need", section 3.1).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from s2robot.errors import S2RobotError
from s2robot.storage import fingerprint, sha256_bytes, write_atomic

SHIFT_VERSION = 2  # raised whenever a shifted view would show other pixels than before: part of its key

TokenDtype = Literal["float16", "bfloat16"]
_NUMPY_DTYPES: dict[TokenDtype, Any] = {"float16": np.float16, "bfloat16": np.uint16}


@dataclass(frozen=True)
class FeatureKey:
    """What a cached token array was made of: encoder and episode by their fingerprints, camera, view id, and every
    how many-th step of the episode, from its first.
    """

    encoder: str
    episode: str
    camera: str
    view: int = 0
    stride: int = 1


class TokenRows(NamedTuple):
    """Tokens of an episode in their file, none of it in memory or held open: there may be thousands."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: Any

    def row(self, step: int) -> Shaped[np.ndarray, "n c"]:
        """The tokens of one time step."""
        size = math.prod(self.shape)
        found = np.fromfile(self.path, self.dtype, size, offset=self.offset + step * size * self.dtype.itemsize)
        return found.reshape(self.shape)


@dataclass(frozen=True)
class Features:
    """Tokens of one camera of one episode, as stored, row by row over a grid of (grid_h, grid_w) tokens.

    numpy has no bfloat16, so such tokens come as their bits in uint16; torch reads them without a copy by
    `torch.from_numpy(tokens.view(numpy.int16)).view(torch.bfloat16)`.
    """

    tokens: Shaped[np.ndarray, "t n c"]
    grid: tuple[int, int]
    dtype: TokenDtype

    def float32(self) -> Float32[np.ndarray, "t n c"]:
        """The tokens as numbers."""
        if self.dtype == "float16":
            return self.tokens.astype(np.float32)
        return (self.tokens.astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True)
class CachedEncoder:
    """One line of `FeatureCache.list`. `last_used_s` is in seconds since the epoch."""

    encoder: str
    name: str
    episodes: int
    files: int
    bytes: int
    last_used_s: float


class FeatureCache:
    """Token arrays below `folder`: ENCODER/EPISODE/CAMERA-VIEW.safetensors, and ENCODER/encoder.json for people.

    The name of a shifted view also says how it is drawn, that of some steps of an episode alone which.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, key: FeatureKey) -> Path:
        """Where the tokens of `key` lie, or would."""
        shift = f"-shift{SHIFT_VERSION}" if key.view else ""
        every = f"-every{key.stride}" if key.stride > 1 else ""
        return self.folder / key.encoder / key.episode / f"{key.camera}-{key.view}{shift}{every}.safetensors"

    def put(
        self,
        key: FeatureKey,
        tokens: Shaped[np.ndarray, "t n c"],
        grid: tuple[int, int],
        dtype: TokenDtype = "float16",
        encoder_name: str = "",
    ) -> None:
        """Store tokens: float16, or the bits of bfloat16 in uint16 with `dtype="bfloat16"`.

        Raises S2RobotError for another dtype or shape, or when the disk is full.
        """
        expected = _NUMPY_DTYPES[dtype]
        if tokens.dtype != expected or tokens.ndim != 3 or tokens.shape[1] != grid[0] * grid[1]:
            raise S2RobotError(
                f"tokens are {tokens.dtype}{tokens.shape}, expected {np.dtype(expected)}(t, {grid[0] * grid[1]}, c) "
                f"for a grid of {grid[0]}x{grid[1]} stored as {dtype}"
            )
        write_atomic(self.path(key), _encode(key, Features(np.ascontiguousarray(tokens), grid, dtype)))
        card = self.folder / key.encoder / "encoder.json"
        if not card.exists():
            write_atomic(card, json.dumps({"name": encoder_name, "fingerprint": key.encoder}).encode())

    def get(self, key: FeatureKey) -> Features | None:
        """The tokens of `key`, or None when they must be encoded (again): file missing, damaged or of another key."""
        try:
            features = _decode(key, self.path(key).read_bytes())
        except FileNotFoundError:
            return None
        if features is not None:
            os.utime(self.folder / key.encoder)
        return features

    def read(self, key: FeatureKey) -> Features:
        """As `get`, but raises S2RobotError when there are none."""
        features = self.get(key)
        if features is None:
            others = [f"{c.name} ({c.encoder[:12]})" for c in self.list() if c.encoder != key.encoder]
            told = f", which has those of {', '.join(others)}" if others else ""
            raise S2RobotError(
                f"no intact features of camera {key.camera!r}, view {key.view}, stride {key.stride}, episode "
                f"{key.episode[:12]} by encoder {key.encoder[:12]} in {self.folder}{told}; make them with "
                "`s2robot encode` and the same encoder, views, stride and validation_fraction"
            )
        return features

    def rows(self, key: FeatureKey) -> TokenRows:
        """As `read`, checked now, but to be read row by row later."""
        tokens, path = self.read(key).tokens, self.path(key)
        return TokenRows(path, path.stat().st_size - tokens.nbytes, tokens.shape[1:], tokens.dtype)

    def missing(
        self,
        encoder: str,
        episodes: Iterable[str],
        cameras: Collection[str],
        views: Collection[int] = (0,),
        stride: int = 1,
    ) -> list[FeatureKey]:
        """The keys that are still to be encoded, grouped by episode.

        Every file is read and checked (about 1 GB/s), so what is not listed can be relied on.
        """
        keys = [FeatureKey(encoder, e, camera, view, stride) for e in episodes for camera in cameras for view in views]
        return [key for key in keys if self.get(key) is None]

    def prune(
        self, keep: Collection[str] | None = None, unused_days: float | None = None, dry_run: bool = False
    ) -> list[CachedEncoder]:
        """Delete the encoders that are not in `keep` (names, fingerprints or their beginnings) and were not used for
        `unused_days`; with one of the two given, that one decides. Returns what was, or would be, deleted.

        Raises S2RobotError without a rule, and for something to keep that is not there: a slip would delete it.
        """
        if keep is None and unused_days is None:
            raise S2RobotError("prune needs keep=NAME,... or unused_days=N; without either it would delete everything")
        horizon, cached, kept = time.time() - 86400 * (unused_days or 0), self.list(), set()
        for wanted in keep or ():
            found = [e.encoder for e in cached if e.name == wanted or (wanted and e.encoder.startswith(wanted))]
            if not found:
                names = ", ".join(sorted(e.name for e in cached))
                raise S2RobotError(f"keep={wanted!r} is not in {self.folder}, which has {names}; nothing was deleted")
            kept.update(found)
        doomed = [e for e in cached if e.last_used_s <= horizon and e.encoder not in kept]
        for encoder in [] if dry_run else doomed:
            shutil.rmtree(self.folder / encoder.encoder)
        return doomed

    def list(self) -> list[CachedEncoder]:
        """What is stored, by encoder, the longest unused first."""
        found = []
        for folder in self._encoder_folders():
            files = list(folder.glob("*/*.safetensors"))
            found.append(
                CachedEncoder(
                    encoder=folder.name,
                    name=_name_of(folder),
                    episodes=len({file.parent for file in files}),
                    files=len(files),
                    bytes=sum(file.stat().st_size for file in files),
                    last_used_s=folder.stat().st_mtime,
                )
            )
        return sorted(found, key=lambda encoder: encoder.last_used_s)

    def _encoder_folders(self) -> Iterable[Path]:
        return (entry for entry in self.folder.glob("*") if entry.is_dir()) if self.folder.exists() else ()


def shift_view(
    images: UInt8[np.ndarray, "t h w 3"], view: int, seed: int, fraction: float = 0.04
) -> UInt8[np.ndarray, "t h w 3"]:
    """The frames of view `view`: each shifted by up to `fraction` of the size, borders replicated, view 0 unchanged.

    Every frame has its own shift: objects that stand still then cross the token grid within one episode, which trains
    better than a shift per episode (docs/log.md). `seed` is the episode's.
    """
    if view == 0:
        return images
    steps, height, width = images.shape[:3]
    pad_y, pad_x = round(fraction * height), round(fraction * width)
    rng = np.random.default_rng([seed, view])
    down = rng.integers(-pad_y, pad_y, steps, endpoint=True)
    right = rng.integers(-pad_x, pad_x, steps, endpoint=True)
    # Replicated borders are clipped row and column numbers: row y of the view shows row y - down of the frame.
    rows = np.clip(np.arange(height) - down[:, None], 0, height - 1)
    columns = np.clip(np.arange(width) - right[:, None], 0, width - 1)
    return images[np.arange(steps)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _encode(key: FeatureKey, features: Features) -> bytes:
    """One tensor in the safetensors format: header length, JSON header, data. The metadata carries our checksum."""
    about: dict[str, Any] = {
        **asdict(key),
        "grid": list(features.grid),
        "dtype": features.dtype,
        "shape": list(features.tokens.shape),
        "sha256": sha256_bytes(features.tokens.tobytes()),
    }
    if key.stride == 1:  # as it was before there were strides: what is cached stays
        del about["stride"]
    about["check"] = fingerprint(about)  # the grid has no other witness
    tensor = {
        "dtype": {"float16": "F16", "bfloat16": "BF16"}[features.dtype],
        "shape": about["shape"],
        "data_offsets": [0, features.tokens.nbytes],
    }
    header = json.dumps({"__metadata__": {"about": json.dumps(about)}, "tokens": tensor}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + features.tokens.tobytes()


def _decode(key: FeatureKey, raw: bytes) -> Features | None:
    """Inverse of `_encode`; None unless the file is, byte for byte, what `_encode` makes of its content for `key`."""
    try:
        size = int.from_bytes(raw[:8], "little")
        about = json.loads(json.loads(raw[8 : 8 + size])["__metadata__"]["about"])
        tokens = np.frombuffer(raw, _NUMPY_DTYPES[about["dtype"]], offset=8 + size).reshape(about["shape"]).copy()
        features = Features(tokens, (about["grid"][0], about["grid"][1]), about["dtype"])
        intact = _encode(key, features) == raw
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    return features if intact else None


def _name_of(folder: Path) -> str:
    try:
        return str(json.loads((folder / "encoder.json").read_bytes())["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # the name is for people only; the tokens do not depend on it
