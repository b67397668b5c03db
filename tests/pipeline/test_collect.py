"""`s2robot collect`: the same store from any number of workers, and kills from outside lose nothing acknowledged."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s2robot.data.episodes import EpisodeStore
from s2robot.data.group import episode_fingerprint
from s2robot.envs import make_task
from s2robot.errors import MismatchError, S2RobotError
from s2robot.pipeline import collect as collect_module
from s2robot.pipeline.collect import FAILED, VERSION_FILE, collect, demonstrate, failed_seeds

from .conftest import CAMERAS, TASK

KEYS = ["task=lift", "task.frame_px=48", "list=true"]
COMMAND = [sys.executable, "-m", "s2robot.cli.main", "collect", *KEYS, "workers=2"]
CHILD = str(Path(__file__).with_name("collect_child.py"))
EPISODES = 60  # never reached: every run is killed before


def crash_module() -> Any:
    """The kill-and-check harness of the data tests."""
    path = Path(__file__).parents[1] / "data" / "crash.py"
    spec = importlib.util.spec_from_file_location("crash", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["crash"] = module
    spec.loader.exec_module(module)
    return module


def kill_collect(store: Path, kills: int, command: list[str] = COMMAND, within_s: float = 1.5) -> int:
    """Start, kill at a seeded moment after the first acknowledgement, check, start again on the same store."""
    crash = crash_module()
    acknowledged: list[str] = []
    expected: dict[int, str] = {}
    env = make_task(TASK)
    for kill in range(kills):
        moment_s = random.Random(kill).uniform(0.0, within_s)
        arguments = [f"store={store}", f"episodes={EPISODES + 10 * kill}"]
        acknowledged += crash.run_and_kill([*command, *arguments], moment_s).lines
        for seed in EpisodeStore(store).seeds:
            if seed not in expected:
                expected[seed] = episode_fingerprint(demonstrate(env, seed, CAMERAS))
        crash.check_after_kill(store, acknowledged, expected)
    return len(acknowledged)


def test_kills_of_collect_lose_nothing_acknowledged(tmp_path: Path) -> None:
    assert kill_collect(tmp_path / "store", kills=3) >= 3


@pytest.mark.slow
def test_two_hundred_kills_of_collect_lose_nothing_acknowledged(tmp_path: Path) -> None:
    assert kill_collect(tmp_path / "store", kills=200) >= 200


@pytest.mark.slow
@pytest.mark.parametrize("mutant", ["IndexFirst", "NoRename", "Append"])
def test_the_same_kills_find_a_collect_that_skips_a_safeguard(tmp_path: Path, mutant: str) -> None:
    command = [sys.executable, CHILD, mutant, *KEYS, "workers=0"]
    with pytest.raises(AssertionError, match=r"a reader meets damage|is partial|reads as other content"):
        kill_collect(tmp_path / "store", kills=60, command=command, within_s=5.0)  # several episodes long


def test_the_store_does_not_depend_on_workers_or_interruptions(demonstrations: EpisodeStore, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    list(collect(TASK, folder, 3, CAMERAS, 0, workers=2))
    assert len(list(collect(TASK, folder, 6, CAMERAS, 0, workers=2))) == 3
    assert EpisodeStore(folder).dataset_fingerprint() == demonstrations.dataset_fingerprint()


def test_a_seed_on_which_the_expert_failed_is_replaced_and_not_tried_again(tmp_path: Path) -> None:
    folder, task = tmp_path / "store", {**TASK, "horizon": 50}  # seed 2 takes longer
    tried = [result.seed for result in collect(task, folder, 3, CAMERAS, 0, workers=0)]
    stored = EpisodeStore(folder).seeds
    assert len(stored) == 3 < len(tried)
    assert failed_seeds(folder) == set(tried) - set(stored)
    assert list(collect(task, folder, 3, CAMERAS, 0, workers=0)) == []
    (folder / FAILED).write_bytes((folder / FAILED).read_bytes()[:-3])  # killed while it was written
    assert len(list(collect(task, folder, 3, CAMERAS, 0, workers=0))) == 1
    assert EpisodeStore(folder).seeds == stored


def test_a_store_of_an_earlier_expert_is_read_and_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    list(collect(TASK, folder, 1, CAMERAS, 0, workers=0))
    assert len(list(collect(TASK, folder, 2, CAMERAS, 0, workers=0))) == 1
    now = collect_module.VERSION
    monkeypatch.setattr(collect_module, "VERSION", now + 1)
    assert list(collect(TASK, folder, 2, CAMERAS, 0, workers=0)) == []
    with pytest.raises(MismatchError, match=rf"another expert \(version: {now}\) than .* \({now + 1}\); train on"):
        list(collect(TASK, folder, 3, CAMERAS, 0, workers=0))
    (folder / VERSION_FILE).unlink()  # what was collected before there were versions
    with pytest.raises(MismatchError, match="version: an earlier one"):
        list(collect(TASK, folder, 3, CAMERAS, 0, workers=0))


def test_seeds_outside_those_for_demonstrations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(S2RobotError, match=r"leave those set apart for demonstrations, 0:10000"):
        list(collect(TASK, tmp_path / "store", 10, CAMERAS, 9_995, workers=0))


@pytest.mark.parametrize("changed", ["task.frame_px=64", "task.half_range_m=[0.05,0.05]"])
def test_a_store_of_another_task_is_refused(demonstrations: EpisodeStore, changed: str) -> None:
    command = [*COMMAND, f"store={demonstrations.path}", "episodes=6", changed]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert "demonstrates differs at task." in result.stderr
    assert result.stderr.count("\n") <= 2
