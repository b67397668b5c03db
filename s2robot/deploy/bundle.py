"""A bundle: encoder and policy as ONNX graphs with everything inside, and one manifest that says what they are.

`bundle/{manifest.json, encoder.onnx, policy.onnx, check.npz}`, or without a policy the encoder alone. Reading it needs
neither torch nor a simulator, and runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from s2robot.deploy.check import CHECK
from s2robot.deploy.parse import parse
from s2robot.errors import DamagedError, S2RobotError
from s2robot.storage import fingerprint, sha256_file
from s2robot.types import ActionSpec, CameraSpec, ObservationSpec

MANIFEST, ENCODER, POLICY = "manifest.json", "encoder.onnx", "policy.onnx"
MOST_MANIFEST_BYTES = 1 << 20
Precision = Literal["float32", "float16", "int8"]
M = TypeVar("M")


@dataclass(frozen=True)
class Identity:
    """What two sides compare before anything moves: same eyes, same hands, same policy.

    `observation` holds the cameras that the policy reads, as they are delivered; `preprocessing_sha256` covers what
    happens to a frame before the encoder's weights, `checkpoint_sha256` all that decides what the policy does.
    """

    observation: ObservationSpec
    action: ActionSpec
    preprocessing_sha256: str
    checkpoint_sha256: str

    @property
    def rate_hz(self) -> float:
        """Commands per second."""
        return self.action.rate_hz


@dataclass(frozen=True)
class Decisions:
    """How a policy decides: `chunk` actions from the last `observation_horizon` observations, `execute` of them carried
    out before the next; `ensemble` as in `EpisodeMemory`; `representation` as in `data.actions`.
    """

    observation_horizon: int
    chunk: int
    execute: int
    ensemble: float | None
    representation: Literal["delta", "absolute"]

    def __post_init__(self) -> None:
        if self.observation_horizon < 1 or not 1 <= self.execute <= self.chunk or (self.ensemble or 0) < 0:
            raise ValueError(f"horizon {self.observation_horizon}, chunk {self.chunk}, execute {self.execute}")


@dataclass(frozen=True, kw_only=True)
class _Described:
    """What both kinds say; `parity` is what export measured, `files` are names and sha256."""

    version: Literal[1]
    precision: Precision
    encoder: dict[str, Any]
    licence: str
    versions: dict[str, str]
    parity: dict[str, Any]
    files: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types with the checksum of all of it."""
        body: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {**body, "sha256": fingerprint(body)}


@dataclass(frozen=True, kw_only=True)
class Manifest(_Described):
    """What `manifest.json` holds.

    `encoders` maps a camera to the file of its encoder; `task_config` builds the simulated task of the demonstrations
    again, and is empty for those of a real robot.
    """

    kind: Literal["bundle"]
    task: str
    task_config: dict[str, Any]
    policy: str
    identity: Identity
    decisions: Decisions
    encoders: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class EncoderManifest(_Described):
    """`manifest.json` of an encoder alone: what it sees, and the tokens (n, c) of one frame, row by row of `grid`."""

    kind: Literal["encoder"]
    camera: CameraSpec
    grid: tuple[int, int]
    channels: int
    preprocessing_sha256: str


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle. Raises DamagedError for one that is missing, altered or no bundle's."""
    return _read(folder, "bundle", Manifest)


def _read(folder: Path, kind: str, form: type[M]) -> M:
    path = folder / MANIFEST
    remedy = "export it again with `s2robot export`"
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_MANIFEST_BYTES + 1)
    except OSError as error:
        raise DamagedError(f"{folder} is no {kind} ({error.strerror}: {MANIFEST}); {remedy}") from error
    if len(text) > MOST_MANIFEST_BYTES:
        raise DamagedError(f"{path} has more than {MOST_MANIFEST_BYTES} bytes; {remedy}")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is not valid JSON; {remedy}") from error
    if not isinstance(data, dict) or data.get("kind") != kind:
        raise DamagedError(f"{path} describes no {kind}; {remedy}")
    body = {key: value for key, value in data.items() if key != "sha256"}
    try:
        whole = data.get("sha256") == fingerprint(body)
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        raise DamagedError(f"{path} does not match its own checksum; {remedy}")
    try:
        return parse(form, body, str(path), remedy)
    except S2RobotError as error:
        raise DamagedError(str(error)) from error


def verify_bundle(folder: Path | str) -> Manifest:
    """The manifest of a bundle whose every file is the one that was exported. Raises DamagedError naming another."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    _verify_files(folder, manifest.files, {POLICY, CHECK, *manifest.encoders.values()})
    return manifest


def verify_encoder(folder: Path | str) -> EncoderManifest:
    """The same for an encoder alone."""
    folder = Path(folder)
    manifest = _read(folder, "encoder", EncoderManifest)
    _verify_files(folder, manifest.files, {ENCODER, CHECK})
    return manifest


def _verify_files(folder: Path, files: Mapping[str, str], needed: set[str]) -> None:
    for name in sorted(needed | files.keys()):
        path = folder / name
        if Path(name).name != name or name not in files:
            raise DamagedError(f"{folder}: {name!r} is not among the bundle's files; export it again")
        if not path.is_file():
            raise DamagedError(f"{path} is missing; copy the whole folder, or export it again")
        if sha256_file(path) != files[name]:
            raise DamagedError(f"{path} is damaged: its sha256 is not the one in {MANIFEST}; copy or export it again")


def is_bundle(folder: Path | str) -> bool:
    """Whether a folder claims to be one; a checkpoint has a manifest too."""
    try:
        return json.loads((Path(folder) / MANIFEST).read_bytes()[:MOST_MANIFEST_BYTES]).get("kind") == "bundle"
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
