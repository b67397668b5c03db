"""Killed at any moment, a writer has lost nothing that it acknowledged and left nothing partial to be read."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from crash import CrashFault, check_after_kill, run_and_kill
from tiny_episodes import SPEC, make_episode

from s2robot.data.episodes import EpisodeWriter
from s2robot.data.group import episode_fingerprint

CHILD = str(Path(__file__).with_name("crash_child.py"))


def kill_repeatedly(store: Path, kills: int, writer: str = "EpisodeWriter") -> int:
    """Kill children that write to one store, one after the other, at seeded moments. Returns how much they wrote."""
    start = time.monotonic()
    acknowledged = [EpisodeWriter(store, SPEC).write(make_episode(0))]
    one_write_s = time.monotonic() - start
    fingerprints = {0: episode_fingerprint(make_episode(0))}
    for kill in range(kills):
        moment, first = random.Random(kill).uniform(0.0, 3 * one_write_s), 1000 * kill + 1
        command = [sys.executable, CHILD, "loop", str(store), writer, str(first)]
        ready, *ids = run_and_kill(command, moment, env={"OMP_NUM_THREADS": "1"}).lines
        assert ready == "ready"
        acknowledged += ids
        for seed in range(first, first + len(ids) + 1):  # one more may be whole though not acknowledged
            fingerprints[seed] = episode_fingerprint(make_episode(seed))
        check_after_kill(store, acknowledged, fingerprints)
    return len(acknowledged) - 1


def run_steps(folder: Path, writer: str, stride: int) -> dict[int, bool]:
    """Number of the file operation at which the writer died -> whether its store kept every promise."""
    subprocess.run([sys.executable, CHILD, "steps", str(folder), writer, str(stride)], check=True, timeout=500)
    expected = {seed: episode_fingerprint(make_episode(seed)) for seed in (1, 2)}
    kept = {}
    for ids in folder.glob("*.txt"):
        try:
            check_after_kill(ids.with_suffix(""), ids.read_text().split(), expected)
            kept[int(ids.stem)] = True
        except CrashFault:
            kept[int(ids.stem)] = False
    return dict(sorted(kept.items()))


def test_ten_kills_from_outside_lose_nothing_acknowledged(tmp_path: Path) -> None:
    assert kill_repeatedly(tmp_path / "store", kills=10) > 0


@pytest.mark.slow
def test_a_hundred_kills_from_outside_lose_nothing_acknowledged(tmp_path: Path) -> None:
    assert kill_repeatedly(tmp_path / "store", kills=100) > 10


@pytest.mark.slow
@pytest.mark.parametrize("mutant", ["IndexFirst", "NoRename", "Append"])
def test_kills_from_outside_find_a_writer_that_skips_a_safeguard(tmp_path: Path, mutant: str) -> None:
    with pytest.raises(CrashFault, match=r"a reader meets damage|is partial|reads as other content"):
        kill_repeatedly(tmp_path / "store", kills=30, writer=mutant)


def test_a_kill_between_file_operations_loses_nothing_acknowledged(tmp_path: Path) -> None:
    kept = run_steps(tmp_path, "EpisodeWriter", stride=16)
    assert len(kept) > 8
    assert all(kept.values()), f"broken when killed at operation {[n for n, good in kept.items() if not good]}"


@pytest.mark.slow
def test_a_kill_at_every_single_file_operation_loses_nothing_acknowledged(tmp_path: Path) -> None:
    kept = run_steps(tmp_path, "EpisodeWriter", stride=1)
    assert len(kept) > 100
    assert all(kept.values()), f"broken when killed at operation {[n for n, good in kept.items() if not good]}"


@pytest.mark.parametrize("mutant", ["IndexFirst", "NoRename", "Append"])
def test_a_writer_that_skips_a_safeguard_is_caught_by_the_same_check(tmp_path: Path, mutant: str) -> None:
    kept = run_steps(tmp_path, mutant, stride=16)
    assert not all(kept.values())
    assert kept[max(kept)], "without a kill the mutant must pass, or the check is red for another reason"


def test_an_acknowledged_episode_that_is_gone_is_caught(store: Path) -> None:
    with pytest.raises(CrashFault, match=r"acknowledged but not there: \['00000009-abc'\]"):
        check_after_kill(store, ["00000009-abc"])
