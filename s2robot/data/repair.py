"""Check every byte of an episode store, and take what is damaged out of it without deleting anything."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from s2robot.data.episodes import SPEC, spec_from_bytes
from s2robot.data.group import MANIFEST, entry_of, episode_fingerprint, first_damage, unpack
from s2robot.data.index import (
    EPISODES,
    INDEX,
    EpisodeEntry,
    Index,
    added,
    append_record,
    load_index,
    parse_line,
    retired,
    store_lock,
)
from s2robot.errors import S2RobotError
from s2robot.storage import cut_torn_line, write_atomic
from s2robot.types import DatasetSpec


@dataclass(frozen=True)
class Verification:
    """What `verify` found: damaged episodes with the fault, damaged index lines, folders that no line speaks of.

    An unindexed folder was left by a process that died before it acknowledged the episode (or belongs to a damaged
    line). It is not part of the store and does no harm.
    """

    episodes: int
    damaged: dict[str, str] = field(default_factory=dict)
    damaged_lines: list[int] = field(default_factory=list)
    unindexed: list[str] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """True when every episode that the store claims to hold is whole."""
        return not self.damaged and not self.damaged_lines


@dataclass(frozen=True)
class Repair:
    """What `repair` did: episodes set aside, index lines set aside, whole episodes put back into the index."""

    set_aside: list[str]
    lines_set_aside: int
    recovered: list[str]


def verify(store: str | Path) -> Verification:
    """Check the sha256 of every file of every episode. Raises S2RobotError when there is no local store there."""
    path = Path(store)
    _spec(path)
    index = load_index(path)
    faults = {episode: _fault(path, entry) for episode, entry in index.live.items()}
    return Verification(
        episodes=len(index.live),
        damaged={episode: fault for episode, fault in faults.items() if fault},
        damaged_lines=index.damaged_lines,
        unindexed=[folder.name for folder in _unindexed(path, index)],
    )


def repair(store: str | Path) -> Repair:
    """Leave a store in which every indexed episode is whole.

    Damaged episodes and index lines move to `.damaged/`; whole episodes whose line was lost come back. Everything is
    done under the store's lock, and a repair that is killed can be started again.
    """
    path = Path(store)
    spec = _spec(path)
    with store_lock(path):
        cut_torn_line(path / INDEX)
        lines = _set_aside_lines(path)
        index = load_index(path)
        set_aside = [episode for episode, entry in index.live.items() if _fault(path, entry)]
        for episode in set_aside:
            # Moved first: killed in between, the episode counts as damaged still, and the next repair retires it.
            _set_aside(path, path / EPISODES / episode)
            append_record(path, retired(episode, "damaged"))
        recovered = []
        for folder in list(_unindexed(path, index)):
            found = _recover(folder, spec)
            if found is None:
                _set_aside(path, folder)
                set_aside.append(folder.name)
            else:
                append_record(path, added(*found))
                recovered.append(folder.name)
    return Repair(set_aside=set_aside, lines_set_aside=lines, recovered=recovered)


def _spec(path: Path) -> DatasetSpec:
    if not (path / SPEC).is_file():
        raise S2RobotError(f"no episode store at {path}; give the folder that holds {SPEC}")
    return spec_from_bytes((path / SPEC).read_bytes(), str(path))


def _fault(path: Path, entry: EpisodeEntry) -> str | None:
    return first_damage(path / EPISODES / entry.id, entry.manifest_sha256)


def _unindexed(path: Path, index: Index) -> Iterator[Path]:
    for folder in sorted((path / EPISODES).glob("*")):
        if folder.name not in index.live and folder.name not in index.retired:
            yield folder


def _set_aside_lines(path: Path) -> int:
    """Rewrite the index without its damaged lines, keeping a copy of what it was."""
    data = (path / INDEX).read_bytes() if (path / INDEX).exists() else b""
    lines = data.split(b"\n")[:-1]
    whole = [line for line in lines if parse_line(line) is not None]
    if len(whole) < len(lines):
        write_atomic(_free_name(path, INDEX), data)
        write_atomic(path / INDEX, b"".join(line + b"\n" for line in whole))
    return len(lines) - len(whole)


def _set_aside(path: Path, folder: Path) -> None:
    if folder.exists():
        os.rename(folder, _free_name(path, folder.name))


def _free_name(path: Path, name: str) -> Path:
    """A path in `.damaged/` that is not taken."""
    (path / ".damaged").mkdir(exist_ok=True)
    taken = {entry.name for entry in (path / ".damaged").iterdir()}
    return (
        path / ".damaged" / next(n for n in (name, *(f"{name}.{i}" for i in range(len(taken) + 1))) if n not in taken)
    )


def _recover(folder: Path, spec: DatasetSpec) -> tuple[EpisodeEntry, str | None] | None:
    """Entry and replaced id of an unindexed group, or None when its content is not what its manifest says."""
    try:
        manifest = (folder / MANIFEST).read_bytes()
        about = json.loads(manifest)
        files = {path: (folder / path).read_bytes() for path in about["files"]}
        episode = unpack(files, [camera.name for camera in spec.observation.cameras])
        entry = entry_of(episode, episode_fingerprint(episode), manifest)
    except (OSError, ValueError, KeyError, TypeError):  # all that zarr and json raise for damaged content
        return None
    whole = entry.id == folder.name and first_damage(folder, entry.manifest_sha256) is None
    return (entry, about["replaces"]) if whole else None
