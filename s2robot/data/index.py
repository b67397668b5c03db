"""The index of an episode store: `index.jsonl`, one checksummed line per change, and the lock around it.

An episode exists when a line adds it and no later line retires it. Lines are only ever appended, under the lock,
so the file is also the store's history. Only lines that end in a newline count: what follows the last newline was
being written when its process died.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from s2robot.storage import append_line, cut_torn_line, fingerprint

INDEX = "index.jsonl"
EPISODES = "episodes"


@dataclass(frozen=True)
class EpisodeEntry:
    """What the index knows of one episode, so that a store can be listed and planned over without opening it.

    `fingerprint` is that of the content (see `episode_fingerprint`), `manifest_sha256` that of the group's
    `manifest.json`, which in turn holds the sha256 of every file of the group.
    """

    id: str
    seed: int
    steps: int
    success: bool
    end: str
    fingerprint: str
    manifest_sha256: str


@dataclass
class Index:
    """A parsed index: living episodes in order (seed, then id), retired ids, and lines that fail their checksum."""

    live: dict[str, EpisodeEntry] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)
    damaged_lines: list[int] = field(default_factory=list)


def added(entry: EpisodeEntry, replaces: str | None = None) -> dict[str, Any]:
    """The record that makes an episode exist and, in the same instant, retires the one it replaces."""
    return {"add": asdict(entry), "replaces": replaces}


def retired(episode: str, reason: str) -> dict[str, Any]:
    """The record (tombstone) that takes an episode out of the store."""
    return {"retire": episode, "reason": reason}


def to_line(record: dict[str, Any]) -> str:
    """One line of JSON with the sha256 of the record in it."""
    return json.dumps({**record, "sha256": fingerprint(record)})


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The record of one line, or None when the line is damaged."""
    try:
        record = json.loads(line)
        return record if record.pop("sha256") == fingerprint(record) else None
    except (ValueError, KeyError, AttributeError):
        return None


def parse_index(data: bytes) -> Index:
    """Replay the lines of an index file; line numbers count from one. A torn last line is no line."""
    index = Index()
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        record = parse_line(line)
        if record is None:
            index.damaged_lines.append(number)
            continue
        if gone := record.get("retire") or record.get("replaces"):
            index.live.pop(gone, None)
            index.retired.add(gone)
        if "add" in record:
            entry = EpisodeEntry(**record["add"])
            index.live[entry.id] = entry
    index.live = dict(sorted(index.live.items(), key=lambda item: (item[1].seed, item[0])))
    return index


def load_index(store: Path) -> Index:
    """The index of a local store; an absent file is an empty index."""
    path = store / INDEX
    return parse_index(path.read_bytes() if path.exists() else b"")


def append_record(store: Path, record: dict[str, Any]) -> None:
    """Append one record. The caller holds the store's lock. Raises S2RobotError when the disk is full."""
    cut_torn_line(store / INDEX)
    append_line(store / INDEX, to_line(record))


@contextmanager
def store_lock(store: Path) -> Iterator[None]:
    """Hold the store against other writer processes; released by the kernel when this process dies."""
    handle = os.open(store / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
