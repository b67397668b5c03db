"""The chunk buffer, and what the brain makes of chunks and holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from s2robot.deploy.brain import Brain
from s2robot.deploy.chunks import ChunkBuffer
from s2robot.errors import S2RobotError
from tests.deploy.plans import plan, sense
from tests.deploy.test_control import gentle


def test_a_plan_ends_with_a_hold() -> None:
    """What was planned for a motion that did not take place is not executed after it."""
    brain = Brain(plan(), sense(1000.0))
    assert brain.take_chunk(0, gentle(0), 1000.0, 1000.0) == ""
    assert not brain.tick(sense(1000.0), 1000.0).decision.held
    assert brain.tick(sense(1000.0), 1000.3).decision.held  # what is seen is old
    assert brain.tick(sense(1000.35), 1000.35).decision.reasons == ("nothing to execute",)
    assert brain.take_chunk(brain.buffer.tick, gentle(1), 1000.35, 1000.35) == ""
    assert not brain.tick(sense(1000.4), 1000.4).decision.held


@pytest.mark.parametrize("every", [0, 9, 1.5, True])
def test_decisions_come_a_whole_number_of_ticks_apart(every: float) -> None:
    with pytest.raises(S2RobotError, match=f"every={every}: give a whole number"):
        replace(plan(), every=every).gate()  # type: ignore[arg-type]


def test_the_buffer_drops_what_is_late_and_fades_where_asked() -> None:
    buffer = ChunkBuffer(blend=1)
    first, second = np.zeros((4, 1)), np.ones((4, 1))
    assert buffer.add(0, first)
    buffer.consume()
    assert buffer.add(1, second)
    assert buffer.seams == [1.0]
    assert buffer.action() == pytest.approx([0.5])
    buffer.consume()
    assert buffer.action() == pytest.approx([1.0])
    assert not buffer.add(0, first)  # saw less than the one that is executed
    assert not buffer.add(3, first)  # from the future
    for _ in range(3):
        buffer.consume()
    assert buffer.action() is None
    assert not buffer.add(1, second)  # all of it lies in the past
    assert buffer.planned() == 0


def test_the_buffer_ensembles_by_absolute_ticks() -> None:
    buffer = ChunkBuffer(ensemble=0.5)
    buffer.add(0, np.zeros((4, 1)))
    buffer.consume()
    buffer.add(1, np.ones((4, 1)))
    weights = np.exp(-0.5 * np.arange(2))
    assert buffer.action() == pytest.approx([weights[1] / weights.sum()])
