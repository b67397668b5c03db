"""`s2robot evaluate` rebuilds the task that the demonstrations came from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from s2robot.configs import choice
from s2robot.envs import make_task
from s2robot.errors import MismatchError
from s2robot.pipeline.simulation import simulated_task
from s2robot.types import DatasetSpec

PLAIN: dict[str, Any] = {**choice("task", "lift"), "frame_px": 96, "cameras": ["agentview"]}
NARROW = {**PLAIN, "half_range_m": [0.02, 0.02]}


@pytest.fixture(scope="module")
def spec() -> DatasetSpec:
    """What a store of lift demonstrations declares, before anybody says how its task was built."""
    env = make_task(PLAIN)
    declared = env.dataset_spec(["agentview"])
    env.close()
    return declared


@pytest.mark.parametrize("named", [None, "", "lift"])
def test_the_task_is_that_of_the_demonstrations_down_to_its_parameters(spec: DatasetSpec, named: str | None) -> None:
    assert simulated_task(replace(spec, task_config=NARROW), named) == NARROW


def test_a_store_that_does_not_say_gets_the_task_of_that_name(spec: DatasetSpec) -> None:
    assert simulated_task(spec, None) == PLAIN


def test_a_task_with_another_goal_is_refused(spec: DatasetSpec) -> None:
    with pytest.raises(MismatchError, match=r"observation of pick_cube differs at goal: .*goal_red.* against \(\)"):
        simulated_task(replace(spec, task_config=NARROW), "pick_cube")
