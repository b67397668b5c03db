"""Tasks (robosuite, MuJoCo), the lean renderer and scripted experts. Imported as `s2robot.envs`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if __name__ != "s2robot.envs":
    raise ImportError(f"import this package as s2robot.envs, not as {__name__!r}")

# Importing robosuite warns of optional parts that we do not use and logs every controller file it reads.
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)

if TYPE_CHECKING:
    from s2robot.envs.task import TabletopTask


def make_task(config: Mapping[str, Any]) -> TabletopTask:
    """Build the task of a composed `configs/task` mapping.

    Sets the GL backend first: MuJoCo reads it once, when it is imported. Raises S2RobotError for keys the task does
    not know and where no backend works.
    """
    from s2robot.gl import select_gl_backend
    from s2robot.targets import instantiate

    select_gl_backend()
    return instantiate(config)
