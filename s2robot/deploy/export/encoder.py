"""`s2robot export encoder=NAME`: the frozen encoder alone, for controllers that bring their own policy.

Dims: n tokens, c channels.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2robot import __version__
from s2robot.data.episodes import EpisodeStore
from s2robot.deploy.bundle import ENCODER, MANIFEST, EncoderManifest, verify_encoder
from s2robot.deploy.check import CHECK, FeatureDifference
from s2robot.deploy.export.files import (
    Settings,
    appearing,
    licence_of,
    preprocessing_sha256,
    require_absent,
    write_encoder_as,
)
from s2robot.deploy.export.parity import TOLERANCES, check_of, recorded_states, torch_tokens
from s2robot.deploy.runtime import BundleEncoder
from s2robot.encoders.encoder import MultiscaleEncoder
from s2robot.encoders.load import load_encoder
from s2robot.errors import MismatchError, S2RobotError
from s2robot.progress import progress
from s2robot.storage import sha256_file, write_json

HELD_OUT = 0.05  # of the episodes: states to compare on; the others calibrate


@dataclass(frozen=True)
class EncoderExport(Settings):
    """Which encoder, for the frames of which camera of which store."""

    encoder: Mapping[str, Any]
    store: Path
    camera: str
    out: Path


def export_encoder(what: EncoderExport) -> EncoderManifest:
    """Write `what.out`: `encoder.onnx` and its manifest.

    Raises MismatchError where its features stray from torch's in float32, S2RobotError where `out` exists, the store
    has no such camera or the encoder no graph.
    """
    require_absent(what.out)
    encoder = load_encoder(what.encoder, device="cpu", dtype="float32")
    if not isinstance(encoder, MultiscaleEncoder):
        raise S2RobotError(f"encoder {encoder.name!r} has no graph; export one that is a MultiscaleEncoder")
    store = EpisodeStore(what.store)
    camera = store.spec.observation.camera(what.camera)
    states = recorded_states(store, what.states, HELD_OUT, held_out=True)
    with appearing(what.out) as partial:
        path = partial / ENCODER
        frames = [state.images[camera.name] for state in what.calibration_states(store, HELD_OUT)]
        write_encoder_as(what.precision, encoder, camera, path, frames)
        encode = functools.partial(torch_tokens, encoder)
        check_of(states, [camera.name], encode, what.precision).write(partial / CHECK)
        spec = encoder.spec()
        manifest = EncoderManifest(
            kind="encoder",
            version=1,
            camera=camera,
            grid=encoder.grid,
            channels=encoder.channels,
            precision=what.precision,
            preprocessing_sha256=preprocessing_sha256(spec),
            encoder=spec,
            licence=licence_of(spec),
            versions={"s2robot": __version__, "torch": str(torch.__version__)},
            parity={},
            files={file.name: sha256_file(file) for file in (path, partial / CHECK)},
        )
        write_json(partial / MANIFEST, manifest.to_json())
        exported, difference = BundleEncoder(partial, check=False), FeatureDifference()
        for state in progress(states, len(states), "parity", "frame"):
            frame = state.images[camera.name]
            difference.add(exported(frame), encode(frame))
        allowed = TOLERANCES[what.precision].features
        if not difference.relative_rms <= allowed:
            raise MismatchError(
                f"{encoder.name} as {what.precision} differs from torch: features {difference.relative_rms:.2g} on "
                f"{len(states)} frames, allowed {allowed:g}; nothing was written"
            )
        parity = {"states": len(states), "features": difference.relative_rms, "allowed": allowed}
        manifest = replace(manifest, parity=parity)
        write_json(partial / MANIFEST, manifest.to_json())
    frame = states[0].images[camera.name]
    if not np.array_equal(BundleEncoder(what.out)(frame), exported(frame)):
        shutil.rmtree(what.out)
        raise MismatchError(f"{what.out} gives other features once it is loaded again; nothing was kept")
    return verify_encoder(what.out)
