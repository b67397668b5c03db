"""What both kinds of export share: a folder that appears whole or not at all, the encoder's file, what is said of it.

Dims: h w frame (px).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from s2robot.data.episodes import EpisodeStore
from s2robot.deploy.bundle import Precision
from s2robot.deploy.export.graph import write_encoder
from s2robot.deploy.export.parity import TOLERANCES, recorded_states
from s2robot.deploy.export.quantise import convert_float16, quantise_int8
from s2robot.encoders.encoder import MultiscaleEncoder
from s2robot.errors import S2RobotError, unknown_name
from s2robot.progress import say
from s2robot.storage import disk_error, fingerprint, publish_folder
from s2robot.types import CameraSpec, Observation

PREPROCESSING = ("preprocessing", "sizes", "tile", "grid", "square", "reference", "mean", "std")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an encoder is written, on how many recorded states compared, and on how many frames int8 is calibrated."""

    precision: Precision = "float32"
    states: int = 500
    calibration: int = 128

    def __post_init__(self) -> None:
        if self.precision not in TOLERANCES:
            raise unknown_name("precision", self.precision, TOLERANCES)
        if self.states < 1 or self.calibration < 1:
            raise S2RobotError(f"states={self.states}, calibration={self.calibration}; give at least 1 of each")

    def calibration_states(self, store: EpisodeStore, held_out: float) -> list[Observation]:
        """Of episodes that are not among the last `held_out` (a share); none where no precision asks for them."""
        return recorded_states(store, self.calibration, held_out, held_out=False) if self.precision == "int8" else []


def require_absent(out: Path) -> None:
    """Raises S2RobotError where something is there."""
    if out.exists():
        raise S2RobotError(f"{out} exists already; give another out= or delete it")


@contextlib.contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` at the end of the block unless the block raises.

    Raises S2RobotError where the disk is full.
    """
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        publish_folder(partial, out)
    except OSError as error:
        raise disk_error(error, out) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_encoder_as(
    precision: Precision,
    encoder: MultiscaleEncoder,
    camera: CameraSpec,
    path: Path,
    frames: Sequence[UInt8[np.ndarray, "h w 3"]],
) -> None:
    """The encoder's graph for one camera; `frames` calibrate int8."""
    say(f"writing {path.name} for frames of {camera.height} x {camera.width} px ...")
    write_encoder(encoder, camera, path)
    if precision == "int8":
        _replace(path, lambda source, target: quantise_int8(source, target, frames))
    elif precision == "float16":
        _replace(path, convert_float16)


def _replace(path: Path, convert: Callable[[Path, Path], None]) -> None:
    source = path.with_suffix(".float32")
    os.rename(path, source)
    convert(source, path)
    source.unlink()


def preprocessing_sha256(encoder: Mapping[str, Any]) -> str:
    """Of what happens to a frame before the weights; `encoder` is an encoder's spec."""
    return fingerprint({key: encoder.get(key) for key in PREPROCESSING})


def licence_of(encoder: Mapping[str, Any]) -> str:
    """Of the weights; `encoder` is an encoder's spec."""
    return str(encoder.get("origin", {}).get("licence", "")) or "as this package (Apache-2.0)"
