"""The simulated task that belongs to a dataset."""

from __future__ import annotations

from typing import Any

from s2robot.configs import choice
from s2robot.types import DatasetSpec, require_equal


def simulated_task(trained_on: DatasetSpec, other: str | None = None) -> dict[str, Any]:
    """The task that the demonstrations came from, down to its parameters, or the one asked for, seen alike.

    Raises MismatchError when that one speaks another language: proprioception, goal or actions of other names.
    """
    from s2robot.envs import make_task

    cameras = [camera.name for camera in trained_on.observation.cameras]
    if trained_on.task_config and other in (None, "", trained_on.task):
        return {**trained_on.task_config, "cameras": cameras}
    frame_px = max(camera.height for camera in trained_on.observation.cameras)
    task = {**choice("task", other or trained_on.task), "frame_px": frame_px, "cameras": cameras}
    env = make_task(task)
    spec = env.dataset_spec(cameras)
    env.close()
    for part in ("observation", "action"):
        remedy = "evaluate on a task like the one that the checkpoint was trained on"
        require_equal(f"{part} of {task['name']}", getattr(spec, part), getattr(trained_on, part), remedy)
    return task
