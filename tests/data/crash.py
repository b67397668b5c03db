"""Kill a process that writes episodes, and judge what it left. Serves any command that writes a store.

outcome = run_and_kill([sys.executable, "-m", "s2robot.cli.main", "collect", ...], after_s=0.3)
check_after_kill(store, acknowledged=[ids found in outcome.lines])
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from s2robot.data.episodes import EpisodeStore, EpisodeWriter
from s2robot.data.group import MANIFEST, episode_fingerprint, first_damage
from s2robot.errors import S2RobotError
from s2robot.storage import sha256_file


class CrashFault(AssertionError):
    """The store broke its promise."""


@dataclass(frozen=True)
class Outcome:
    """The whole lines that a process printed, and whether it ended before the kill came."""

    lines: list[str]
    finished: bool


def run_and_kill(command: Sequence[str], after_s: float, env: Mapping[str, str] | None = None) -> Outcome:
    """Start a command and SIGKILL it with all its children `after_s` seconds after its first line of output.

    Raises AssertionError with its stderr when it fails by itself.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(after_s)
        finished = process.poll() is not None
        with contextlib.suppress(ProcessLookupError):  # it and its children have ended already
            os.killpg(process.pid, signal.SIGKILL)
        output = first + process.stdout.read()
        status = process.wait()
        errors.seek(0)
        assert status in (0, -signal.SIGKILL), f"{command[:4]} failed by itself with {status}: {errors.read()[-2000:]}"
    return Outcome([line.decode() for line in output.split(b"\n")[:-1]], finished)


def check_after_kill(
    store_path: str | Path, acknowledged: Iterable[str], expected: Mapping[int, str] | None = None
) -> None:
    """Raises CrashFault unless every promise of the store holds after its writers were killed.

    Every acknowledged id is there; every episode that can be read is whole and is what its id says (and, where
    `expected` gives fingerprints by seed, that content); no folder under its final name is partial; the next writer
    opens the store and clears what the dead ones left.
    """
    path, promised = Path(store_path), set(acknowledged)
    if not (path / "spec.json").exists():
        if promised:
            raise CrashFault(f"{len(promised)} episodes were acknowledged, and {path} is no store")
        return
    _check_episodes(path, promised, expected)
    for folder in sorted((path / "episodes").glob("*")):
        _check_folder(folder)
    EpisodeWriter(path, EpisodeStore(path, allow_empty=True).spec)
    if leftovers := list((path / ".partial").iterdir()):
        raise CrashFault(f"the next writer left {leftovers[0].name} of a dead one in .partial")


def _check_episodes(path: Path, promised: set[str], expected: Mapping[int, str] | None) -> None:
    try:
        store = EpisodeStore(path, allow_empty=True)
        if lost := promised - set(store.episodes):
            raise CrashFault(f"acknowledged but not there: {sorted(lost)}")
        for episode in store.episodes:
            content = store.read(episode)
            found, entry = episode_fingerprint(content), store.entry(episode)
            if found != entry.fingerprint or episode != f"{content.seed:08d}-{found[:12]}":
                raise CrashFault(f"episode {episode} reads as other content, {found[:12]}")
            if expected is not None and expected[content.seed] != found:
                raise CrashFault(f"episode {episode} is not what was written for seed {content.seed}")
    except S2RobotError as error:
        raise CrashFault(f"a reader meets damage: {error}") from error


def _check_folder(folder: Path) -> None:
    manifest = folder / MANIFEST
    damage = first_damage(folder, sha256_file(manifest)) if manifest.exists() else "it has no manifest"
    if damage:
        raise CrashFault(f"{folder.name} has its final name and is partial: {damage}")
    listed = {*json.loads(manifest.read_bytes())["files"], MANIFEST}
    if extra := {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()} - listed:
        raise CrashFault(f"{folder.name} holds files that its manifest does not know: {sorted(extra)[:3]}")
