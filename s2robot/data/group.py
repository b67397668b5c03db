"""One episode as one immutable zarr v3 group: packing to files in memory, unpacking, checking, fingerprint.

Dims: t time steps, h w image height and width (px), p proprioception, g goal, a action, s simulator state.

Files are made and read in memory, so that each byte is hashed exactly as it goes to the disk or comes from it.
Every chunk also carries a crc32c for readers that know zarr but not our manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer, cpu
from zarr.storage import MemoryStore

from s2robot.data.index import EpisodeEntry
from s2robot.errors import S2RobotError
from s2robot.storage import fingerprint, sha256_bytes, sha256_file
from s2robot.types import DatasetSpec, EndReason, Episode

MANIFEST = "manifest.json"

# Measured on 50 frames of 224 px with a still background: 4 frames per chunk and zstd level 1 take 7 ms to encode
# and 1.6 MB instead of 7.5 (the background is found again in the next frame); one frame per chunk takes 20 ms and
# 6.0 MB, and more frames per chunk make a read of a short window dearer.
FRAMES_PER_CHUNK = 4


def check_episode(episode: Episode, spec: DatasetSpec) -> None:
    """Raises S2RobotError unless the episode has the arrays, shapes and dtypes that the spec promises."""
    steps = len(episode.action)
    if steps < 1:
        raise S2RobotError("the episode has no steps; an episode needs at least one action")
    cameras = {camera.name: camera for camera in spec.observation.cameras}
    if set(episode.images) != set(cameras):
        raise S2RobotError(
            f"the episode has cameras {sorted(episode.images)}, the spec has {sorted(cameras)}; give exactly these"
        )
    for name, camera in cameras.items():
        shape = (steps, camera.height, camera.width, 3)
        _check_array(f"images[{name!r}]", episode.images[name], np.uint8, shape)
    _check_array("proprio", episode.proprio, np.float32, (steps, len(spec.observation.proprio)))
    _check_array("action", episode.action, np.float32, (steps, len(spec.action.names)))
    _check_array("goal", episode.goal, np.float32, (len(spec.observation.goal),))
    _check_array("time_s", episode.time_s, np.float64, (steps,))
    if np.any(np.diff(episode.time_s) <= 0):
        step = int(np.argmax(np.diff(episode.time_s) <= 0)) + 1
        raise S2RobotError(f"time_s does not increase at step {step}; give monotonic seconds, one per step")
    if episode.sim_state is not None:
        _check_array("sim_state", episode.sim_state, np.float64, (steps, *episode.sim_state.shape[-1:]))
    for name, label in episode.labels.items():
        _check_array(f"labels[{name!r}]", label, label.dtype, (steps, *label.shape[1:]))
    for name in episode.images:
        if "." in name:
            raise S2RobotError(f"camera {name!r} has a dot, which no layer's name may have; use '_' or '-'")
    for name in (*episode.images, *episode.labels):
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise S2RobotError(f"name {name!r} cannot be a folder; use letters, digits, '_', '-' and '.'")
    if isinstance(episode.seed, bool) or not isinstance(episode.seed, int | np.integer) or episode.seed < 0:
        raise S2RobotError(f"seed {episode.seed!r} is not an integer from 0 on")
    if episode.end not in get_args(EndReason):
        raise S2RobotError(f"end {episode.end!r} is unknown; give one of {', '.join(get_args(EndReason))}")


def _check_array(name: str, array: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray):
        raise S2RobotError(f"{name} is a {type(array).__name__}; give a numpy array")
    if array.dtype != dtype or array.shape != shape:
        raise S2RobotError(f"{name} is {array.dtype}{array.shape}, expected {np.dtype(dtype)}{shape}")
    if array.dtype.kind not in "fiub" or not array.dtype.isnative:
        raise S2RobotError(f"{name} has dtype {array.dtype}; give numbers or booleans in native byte order")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise S2RobotError(f"{name} has NaN or infinite values; leave such steps out")


def arrays_of(episode: Episode) -> dict[str, np.ndarray]:
    """The arrays of an episode by their path in the group, in sorted order."""
    arrays = {f"images/{name}": frames for name, frames in episode.images.items()}
    arrays |= {"proprio": episode.proprio, "action": episode.action, "time_s": episode.time_s}
    if episode.sim_state is not None:
        arrays["sim_state"] = episode.sim_state
    arrays |= {f"labels/{name}": label for name, label in episode.labels.items()}
    return dict(sorted(arrays.items()))


def _attributes(episode: Episode) -> dict[str, Any]:
    return {
        "goal": [float(value) for value in episode.goal],
        "success": bool(episode.success),
        "seed": int(episode.seed),
        "end": episode.end,
    }


def episode_fingerprint(episode: Episode) -> str:
    """sha256 over the content: every array with name, dtype and shape, goal, success, seed, end.

    Ids, compression and wall-clock time have no part in it: the same episode collected again has the same one.
    """
    arrays = {
        name: [array.dtype.str, list(array.shape), sha256_bytes(np.ascontiguousarray(array).data)]
        for name, array in arrays_of(episode).items()
    }
    return fingerprint({"arrays": arrays, **_attributes(episode)})


def pack(episode: Episode) -> dict[str, bytes]:
    """The files of the episode's zarr group: path inside the group -> content."""
    files: dict[str, Buffer] = {}
    group = zarr.create_group(MemoryStore(files), zarr_format=3, attributes=_attributes(episode))
    for name, array in arrays_of(episode).items():
        steps = FRAMES_PER_CHUNK if name.startswith("images/") else len(array)
        stored = group.create_array(
            name,
            shape=array.shape,
            dtype=array.dtype,
            chunks=(min(steps, len(array)), *(max(1, n) for n in array.shape[1:])),
            filters=None,
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            # zarr leaves out chunks of zeros by default, and then a lost chunk looks like a black frame.
            config={"write_empty_chunks": True},
        )
        stored[...] = array
    return {path: buffer.to_bytes() for path, buffer in sorted(files.items())}


def unpack(files: Mapping[str, bytes], cameras: Iterable[str]) -> Episode:
    """Inverse of `pack`; `files` need to hold the frames of the given cameras only."""
    group = open_group(files)
    attributes: dict[str, Any] = dict(group.attrs)
    labels = sorted({path.split("/")[1] for path in files if path.startswith("labels/") and path.count("/") > 1})
    return Episode(
        images={camera: read_array(group, f"images/{camera}") for camera in cameras},
        proprio=read_array(group, "proprio"),
        action=read_array(group, "action"),
        time_s=read_array(group, "time_s"),
        goal=np.array(attributes["goal"], np.float32),
        success=attributes["success"],
        seed=attributes["seed"],
        end=attributes["end"],
        sim_state=read_array(group, "sim_state") if "sim_state/zarr.json" in files else None,
        labels={name: read_array(group, f"labels/{name}") for name in labels},
    )


def open_group(files: Mapping[str, bytes]) -> zarr.Group:
    """A zarr group over files that lie in memory."""
    return zarr.open_group(MemoryStore({path: cpu.Buffer.from_bytes(data) for path, data in files.items()}), mode="r")


def read_array(group: zarr.Group, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Steps start:stop of one array of a group, as numpy."""
    return np.asarray(group[name][start:stop])  # type: ignore[index]


def manifest_of(files: Mapping[str, bytes], content: str, replaces: str | None) -> bytes:
    """The group's `manifest.json`: sha256 of every file, and what a lost index line would have said."""
    digests = {path: sha256_bytes(data) for path, data in files.items()}
    return (json.dumps({"fingerprint": content, "replaces": replaces, "files": digests}, indent=1) + "\n").encode()


def entry_of(episode: Episode, content: str, manifest: bytes) -> EpisodeEntry:
    """The index entry of an episode whose fingerprint is `content`. The id is made of seed and content."""
    return EpisodeEntry(
        id=f"{episode.seed:08d}-{content[:12]}",
        seed=int(episode.seed),
        steps=len(episode),
        success=bool(episode.success),
        end=episode.end,
        fingerprint=content,
        manifest_sha256=sha256_bytes(manifest),
    )


def first_damage(folder: Path, manifest_sha256: str) -> str | None:
    """Path and fault of the first file of a local group that is missing or altered; None when all are whole."""
    try:
        manifest = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    if sha256_bytes(manifest) != manifest_sha256:
        return f"{MANIFEST} fails its checksum"
    for path, digest in json.loads(manifest)["files"].items():
        try:
            if sha256_file(folder / path) != digest:
                return f"{path} fails its checksum"
        except (FileNotFoundError, NotADirectoryError):
            return f"{path} is missing"
    return None
