"""An episode's memory: what a policy looks back at, and how overlapping chunks meet."""

from __future__ import annotations

import numpy as np
import pytest

from s2robot.errors import S2RobotError
from s2robot.policies.memory import EpisodeMemory, Seen


def seen(value: float) -> Seen:
    return Seen({}, np.full(2, value, np.float32), np.zeros(0, np.float32))


def plan(start: float, length: int = 8) -> np.ndarray:
    """A chunk whose first element is `start`, growing by one per tick."""
    return (start + np.arange(length, dtype=np.float32))[:, None]


def test_the_first_observation_stands_in_for_those_before_it() -> None:
    memory = EpisodeMemory(3, 8, 4)
    looked_back = []
    for value in range(4):
        memory.push(seen(value))
        looked_back.append([step.proprio[0] for step in memory.steps()])
    assert looked_back == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]


def test_a_plan_that_is_kept_has_no_seam_and_a_jump_has_its_size() -> None:
    memory = EpisodeMemory(1, 8, 4)
    assert memory.accept(plan(0))[:, 0].tolist() == [0, 1, 2, 3]
    memory.accept(plan(4))  # goes on where the first chunk planned to be
    memory.accept(plan(8.5))
    assert memory.seams == [0.0, 0.5]


def test_ensembling_leaves_a_plan_that_is_kept_as_it_is() -> None:
    memory = EpisodeMemory(1, 8, 2, ensemble=0.1)
    for start in range(0, 40, 2):
        np.testing.assert_allclose(memory.accept(plan(start))[:, 0], [start, start + 1], rtol=1e-6)


def test_ensembling_weighs_the_oldest_prediction_most() -> None:
    memory = EpisodeMemory(1, 4, 2, ensemble=0.5)
    memory.accept(np.zeros((4, 1), np.float32))
    second = memory.accept(np.ones((4, 1), np.float32))
    young = np.exp(-0.5) / (1 + np.exp(-0.5))
    np.testing.assert_allclose(second[:, 0], [young, young], rtol=1e-6)
    third = memory.accept(np.full((4, 1), 2.0, np.float32))  # the first chunk has run out
    np.testing.assert_allclose(third[:, 0], [1 + young] * 2, rtol=1e-6)


def test_a_negative_rate_is_refused() -> None:
    with pytest.raises(S2RobotError, match="ensemble=-1; give a rate of at least 0, or null"):
        EpisodeMemory(1, 8, 4, ensemble=-1)
