"""Pre-training frames on disk: shards of labelled random scenes, regenerable from one seed and never committed.

Dims: f frames, h w image (px), n objects.
"""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2robot.errors import S2RobotError
from s2robot.execution import run_tasks
from s2robot.gl import select_gl_backend
from s2robot.progress import progress
from s2robot.storage import fingerprint, read_json, write_atomic, write_json

SHARD_FRAMES = 250
FIRST_HELD_OUT_SEED = 9_000_000  # from here on scenes are the probes'
KEYS = ("rgb", "code", "depth_m", "centre_px", "robot_px", "albedo")


@dataclass(frozen=True)
class ShardTask:
    """One shard to draw: frames `first_seed` ... `first_seed + frames - 1`."""

    folder: str
    index: int
    first_seed: int
    frames: int
    frame_px: int


def generate_frames(folder: Path, frames: int, first_seed: int, frame_px: int = 224, workers: int = 2) -> None:
    """Draw `frames` scenes into `folder`. Shards that exist are kept, so a second call goes on where one stopped.

    Raises S2RobotError when the folder holds frames of another seed or size, or for a number that is no whole shards.
    """
    if frames % SHARD_FRAMES or frames < 2 * SHARD_FRAMES:
        raise S2RobotError(
            f"frames={frames}: give a multiple of the shard size {SHARD_FRAMES}, at least two of them, since the last "
            "shard is held out"
        )
    if first_seed + frames > FIRST_HELD_OUT_SEED:
        raise S2RobotError(f"seeds {first_seed}:{first_seed + frames} reach the probes', from {FIRST_HELD_OUT_SEED} on")
    from s2robot.envs.random_scenes import GENERATOR_VERSION

    recipe = {
        "generator": GENERATOR_VERSION,
        "first_seed": first_seed,
        "frame_px": frame_px,
        "shard_frames": SHARD_FRAMES,
    }
    if (folder / "frames.json").exists() and read_json(folder / "frames.json") != recipe:
        raise S2RobotError(f"{folder} holds frames of another recipe; give another folder or delete it")
    write_json(folder / "frames.json", recipe)
    tasks = [
        ShardTask(str(folder), i, first_seed + i * SHARD_FRAMES, SHARD_FRAMES, frame_px)
        for i in range(frames // SHARD_FRAMES)
    ]
    missing = [task for task in tasks if not _shard_path(folder, task.index, KEYS[-1]).exists()]
    done = len(tasks) - len(missing)
    if missing:
        select_gl_backend()
    for _ in progress(run_tasks(draw_shard, missing, workers), len(tasks), "frames", "shard", done):
        pass


def draw_shard(task: ShardTask) -> int:
    """Draw one shard and write its arrays; the last array's file marks it complete."""
    generator = _generator(task.frame_px)
    scenes = [generator.scene(task.first_seed + i) for i in range(task.frames)]
    for key in KEYS:
        buffer = io.BytesIO()
        np.save(buffer, np.stack([getattr(scene, key) for scene in scenes]))
        write_atomic(_shard_path(Path(task.folder), task.index, key), buffer.getvalue())
    return task.index


class FrameSet:
    """The first `frames` frames of a folder, memory-mapped: `frames[key][i]` through `get(key, i)`.

    The folder may hold more of them, drawn for a longer run. Raises S2RobotError when it holds fewer.
    """

    def __init__(self, folder: Path, frames: int) -> None:
        self.recipe = read_json(folder / "frames.json")
        count = frames // SHARD_FRAMES
        absent = [i for i in range(count) if not _shard_path(folder, i, KEYS[-1]).exists()]
        if absent:
            raise S2RobotError(f"{folder} lacks shard {absent[0]} of {count}; `s2robot pretrain` draws what is missing")
        self._indexes = range(count * SHARD_FRAMES)
        self._shards = [{k: np.load(_shard_path(folder, i, k), mmap_mode="r") for k in KEYS} for i in range(count)]

    def __len__(self) -> int:
        return len(self._indexes)

    def split(self, last: int) -> tuple[FrameSet, FrameSet]:
        """All but the last frames, and the last ones: training and held-out."""
        first_part, last_part = copy.copy(self), copy.copy(self)
        first_part._indexes, last_part._indexes = self._indexes[:-last], self._indexes[-last:]
        return first_part, last_part

    def get(self, key: str, index: int) -> np.ndarray:
        """Array `key` of frame `index`."""
        shard, row = divmod(self._indexes[index], SHARD_FRAMES)
        return self._shards[shard][key][row]

    def fingerprint(self) -> str:
        """Identity of the frames: they are a function of recipe and count."""
        return fingerprint({**self.recipe, "frames": len(self)})


_GENERATORS: dict[int, object] = {}  # one per process and size: building the world takes seconds


def _generator(frame_px: int):  # type: ignore[no-untyped-def]  # the type lives behind a heavy import
    from s2robot.envs.random_scenes import SceneGenerator

    if frame_px not in _GENERATORS:
        _GENERATORS[frame_px] = SceneGenerator(frame_px)
    return _GENERATORS[frame_px]


def _shard_path(folder: Path, index: int, key: str) -> Path:
    return folder / f"{key}-{index:04d}.npy"
