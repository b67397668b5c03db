"""Datasets that would train nonsense are found before anything is trained."""

from __future__ import annotations

import numpy as np
import pytest

from s2robot.data.checks import check_actions, standing_still
from s2robot.data.windows import FlatEpisodes
from s2robot.envs.task import ACTION_SPEC
from s2robot.errors import S2RobotError


def dataset(*, episodes: int = 3, steps: int = 4) -> FlatEpisodes:
    action = np.random.default_rng(0).uniform(-1, 1, (episodes * steps, 7)).astype(np.float32)
    empty = np.zeros((episodes * steps, 0), np.float32)
    ids = tuple(f"{seed:06d}" for seed in range(episodes))
    return FlatEpisodes(ids, steps * np.arange(episodes + 1), empty, action, empty[:episodes], {})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"action dy of episode 000001 at step 2 is no number: nan, allowed -1 to 1; mend"),
        (np.inf, r"action dy of episode 000001 at step 2 is no number: inf"),
        (-1.5, r"action dy of episode 000001 at step 2 leaves the spec's limits: -1\.5, allowed -1 to 1; mend"),
    ],
)
def test_actions_that_no_controller_takes_are_named_by_episode_and_step(value: float, message: str) -> None:
    flat = dataset()
    check_actions(flat, ACTION_SPEC)
    flat.action[6, 1] = value
    with pytest.raises(S2RobotError, match=message):
        check_actions(flat, ACTION_SPEC)
    flat.action[8:, 4] = value
    with pytest.raises(S2RobotError, match=r"at step 2 .* \(so has it in 1 more\)"):
        check_actions(flat, ACTION_SPEC)


def test_a_limit_that_is_reached_up_to_rounding_is_kept() -> None:
    flat = dataset()
    flat.action[3, 2] = 1.0005
    check_actions(flat, ACTION_SPEC)


def test_episodes_that_repeat_one_action_are_found_and_refused_where_all_do() -> None:
    flat = dataset()
    flat.action[4:8] = flat.action[4]
    assert standing_still(flat) == ["000001"]
    check_actions(flat, ACTION_SPEC)
    flat.action[:] = flat.action[::4].repeat(4, axis=0)
    with pytest.raises(S2RobotError, match="actions of every episode are constant, there is nothing to imitate"):
        check_actions(flat, ACTION_SPEC)
