"""Labelled frames that no pre-training and no policy saw: of a task, and of random scenes.

Task frames come from seeds 30000:40000, moments of the expert's episodes; scenes from seeds that no pre-training
reaches. Shards are drawn once, kept, and can be drawn again from the recipe beside them.

Dims: f frames, h w frame (px), m goals, n objects, j joints.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2robot.errors import MismatchError, S2RobotError
from s2robot.execution import run_tasks
from s2robot.gl import select_gl_backend
from s2robot.pipeline.pretrain.frames import FIRST_HELD_OUT_SEED as FIRST_SCENE
from s2robot.pipeline.seeds import PROBE_SEEDS
from s2robot.progress import progress
from s2robot.storage import fingerprint, read_json, write_atomic, write_json

SHARD_FRAMES = 100
TASK_FRAMES_VERSION = 3  # raised whenever tasks or expert would give other frames or labels for the same seed
EXPERT_STEPS = 35  # a frame shows a moment within the first so many steps
SCENES = "scenes"  # the name of the source that is no task


@dataclass(frozen=True)
class FrameRecipe:
    """What determines the frames: a task's configuration, or none for random scenes; camera, size and number."""

    source: str
    task: Mapping[str, Any] | None
    camera: str
    frame_px: int
    frames: int

    def __post_init__(self) -> None:
        limit = len(PROBE_SEEDS) if self.task is not None else 1_000_000
        if self.frames % SHARD_FRAMES or not SHARD_FRAMES <= self.frames <= limit:
            raise S2RobotError(f"frames={self.frames}; give a multiple of {SHARD_FRAMES}, at most {limit}")

    def identity(self) -> dict[str, Any]:
        """Without the number: more frames of the same recipe only add shards."""
        from s2robot.envs.random_scenes import GENERATOR_VERSION

        version = TASK_FRAMES_VERSION if self.task is not None else GENERATOR_VERSION
        about = {"task": self.task, "camera": self.camera, "frame_px": self.frame_px, "version": version}
        return json.loads(json.dumps(about))


def draw_frames(recipe: FrameRecipe, folder: Path, workers: int) -> list[Path]:
    """Draw the shards that are missing; returns all of them. Raises MismatchError for frames of another recipe."""
    about = folder / "recipe.json"
    if about.exists() and read_json(about) != recipe.identity():
        raise MismatchError(f"{folder} holds frames of another recipe; give another out= or delete it")
    write_json(about, recipe.identity())
    paths = [folder / f"shard-{i:04d}.npz" for i in range(recipe.frames // SHARD_FRAMES)]
    missing = [(recipe, i, str(path)) for i, path in enumerate(paths) if not path.exists()]
    if missing:
        select_gl_backend()
    done = len(paths) - len(missing)
    for _ in progress(run_tasks(_draw_shard, missing, workers), len(paths), f"frames {recipe.source}", "shard", done):
        pass
    return paths


def shard_fingerprint(recipe: FrameRecipe, index: int) -> str:
    """Identity of a shard's frames, for the feature cache."""
    return fingerprint({"probe": recipe.identity(), "shard": index, "frames": SHARD_FRAMES})


def load_labels(paths: list[Path]) -> dict[str, np.ndarray]:
    """Every array but the frames, of all shards end to end."""
    parts: dict[str, list[np.ndarray]] = {}
    for path in paths:
        with np.load(path, allow_pickle=False) as shard:
            for key in shard.files:
                if key != "rgb":
                    parts.setdefault(key, []).append(shard[key])
    return {key: np.concatenate(arrays) for key, arrays in parts.items()}


def load_rgb(path: Path) -> np.ndarray:
    """The frames of one shard, uint8 (f, h, w, 3)."""
    with np.load(path, allow_pickle=False) as shard:
        return shard["rgb"]


def _draw_shard(job: tuple[FrameRecipe, int, str]) -> str:
    recipe, index, path = job
    frames = range(index * SHARD_FRAMES, (index + 1) * SHARD_FRAMES)
    rows = [_task_frame(recipe, i) if recipe.task is not None else _scene_frame(recipe, i) for i in frames]
    buffer = io.BytesIO()
    arrays: Any = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    np.savez_compressed(buffer, **arrays)
    write_atomic(Path(path), buffer.getvalue())
    return path


_WORLDS: dict[str, Any] = {}  # one per process and recipe: building a world takes seconds


def _task_frame(recipe: FrameRecipe, index: int) -> dict[str, np.ndarray]:
    """A moment of the expert's episode: the arm's joints, place and pixels of all objects that a goal may name."""
    from s2robot.envs import make_task
    from s2robot.envs.expert import ExpertConfig, GraspExpert

    key = fingerprint(recipe.identity())
    if key not in _WORLDS:
        _WORLDS[key] = make_task({**dict(recipe.task or {}), "frame_px": recipe.frame_px, "cameras": [recipe.camera]})
    env = _WORLDS[key]
    seed = PROBE_SEEDS[index]
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    expert = GraspExpert(env, ExpertConfig(), rng)
    for _ in range(int(rng.integers(EXPERT_STEPS))):
        _, executed = expert.act()
        env.step(executed)
        if env.end:
            break
    return {
        "rgb": env.frames((recipe.camera,))[recipe.camera],
        "goal_xy_m": env.goal_positions_w()[:, :2].astype(np.float32),
        "goal_px": env.goal_pixels(recipe.camera),
        "joints_rad": env.data.qpos[env.robot._ref_joint_pos_indexes].astype(np.float32),
    }


def _scene_frame(recipe: FrameRecipe, index: int) -> dict[str, np.ndarray]:
    """A random scene with what the simulator knows of every pixel and object."""
    from s2robot.envs.random_scenes import SceneGenerator

    key = fingerprint(recipe.identity())
    if key not in _WORLDS:
        _WORLDS[key] = SceneGenerator(recipe.frame_px, held_out=True)
    scene = _WORLDS[key].scene(FIRST_SCENE + index)
    keys = ("rgb", "code", "depth_m", "centre_px", "kind", "size_m", "yaw_rad", "lifted")
    return {key: getattr(scene, key) for key in keys}
