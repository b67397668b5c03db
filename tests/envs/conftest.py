"""One environment of every task for the whole run: building a robosuite world takes seconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from s2robot.configs import choice, names
from s2robot.envs import make_task
from s2robot.envs.task import TabletopTask

TASKS = names("task")
_built: dict[str, TabletopTask] = {}


@pytest.fixture
def task() -> Callable[[str], TabletopTask]:
    """Builds each task once, with small frames."""

    def build(name: str) -> TabletopTask:
        if name not in _built:
            _built[name] = make_task({**choice("task", name), "frame_px": 64})
        return _built[name]

    return build
