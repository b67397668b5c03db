"""The example in `examples/` turns a plain robot log into a store that trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from s2robot.data.episodes import EpisodeStore
from s2robot.data.windows import flatten

Image = pytest.importorskip("PIL.Image")
EXAMPLE = Path(__file__).parents[2] / "examples" / "robot_log_to_store.py"


def test_a_robot_log_of_arrays_and_pictures_becomes_a_store(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, steps in (("monday", 12), ("tuesday", 9)):
        (tmp_path / "logs" / name / "front").mkdir(parents=True)
        arrays = {"proprio": rng.normal(size=(steps, 3)), "action": rng.uniform(-0.02, 0.02, (steps, 4))}
        np.savez(tmp_path / "logs" / name / "log.npz", time_s=100 + np.arange(steps) / 20, **arrays)
        for t in range(steps):
            frame = np.full((224, 224, 3), 10 * t, np.uint8)
            Image.fromarray(frame).save(tmp_path / "logs" / name / f"front/{t:06d}.png")
    subprocess.run([sys.executable, EXAMPLE, tmp_path / "logs", tmp_path / "store"], check=True, timeout=100)
    store = EpisodeStore(tmp_path / "store")
    assert store.seeds == [0, 1]
    assert store.read(store.episodes[0]).images["front"][:5, 0, 0, 0].tolist() == [0, 10, 20, 30, 40]
    flat = flatten(store)
    np.testing.assert_array_equal(flat.action[12:], arrays["action"].astype(np.float32))
    assert len(flat.windows(observation_horizon=2, action_chunk=4)) == 21
    assert trains(tmp_path)


def trains(folder: Path) -> bool:
    """Whether `s2robot train` makes a checkpoint of that store."""
    keys = ["cameras=[front]", "encoder=base", "recipe.epochs=1", "recipe.batch_size=4", f"cache={folder / 'cache'}"]
    command = [sys.executable, "-m", "s2robot.cli.main", "train", f"store={folder / 'store'}", f"out={folder / 'run'}"]
    subprocess.run([*command, *keys], check=True, timeout=100)
    return len(list((folder / "run" / "checkpoints").glob("step-*"))) == 1
