"""What is looked at in a dataset before anything is trained on it."""

from __future__ import annotations

import numpy as np

from s2robot.data.windows import FlatEpisodes
from s2robot.errors import S2RobotError
from s2robot.types import ActionSpec

LIMIT_SLACK = 1e-3  # of an element's range: rounding on the way from a robot's log


def check_actions(flat: FlatEpisodes, spec: ActionSpec) -> None:
    """Raise S2RobotError, naming episode, step and element, for actions that are no numbers or leave the spec's limits,
    and where nothing ever moves.
    """
    low, high = np.array(spec.low), np.array(spec.high)
    slack = LIMIT_SLACK * np.where(np.isfinite(high - low), high - low, 0.0)
    for found, what in (
        (~np.isfinite(flat.action), "is no number"),
        ((flat.action < low - slack) | (flat.action > high + slack), "leaves the spec's limits"),
    ):
        if not found.any():
            continue
        row, element = (int(axis[0]) for axis in np.nonzero(found))
        episode = int(np.searchsorted(flat.starts, row, side="right")) - 1
        others = len(np.unique(np.searchsorted(flat.starts, np.nonzero(found)[0], side="right"))) - 1
        raise S2RobotError(
            f"action {spec.names[element]} of episode {flat.ids[episode]} at step {row - flat.starts[episode]} {what}: "
            f"{flat.action[row, element]:g}, allowed {low[element]:g} to {high[element]:g}"
            f"{f' (so has it in {others} more)' if others else ''}; mend the log or give the spec its true limits"
        )
    if len(standing_still(flat)) == len(flat.ids):
        raise S2RobotError(
            "the actions of every episode are constant, there is nothing to imitate; were the log's actions recorded?"
        )


def standing_still(flat: FlatEpisodes) -> list[str]:
    """Ids of the episodes that repeat one action from beginning to end."""
    pairs = zip(flat.ids, flat.starts[:-1], flat.starts[1:], strict=True)
    return [name for name, start, stop in pairs if not np.ptp(flat.action[start:stop], axis=0).any()]
