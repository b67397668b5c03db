"""What the loop decides, apart from when: chunks in, one command per tick out. A function of what it is told.

The loop tells it what happened and writes the same to the log; replaying the log tells it again, and every decision has
to come out the same.

Dims: k chunk, a action.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from s2robot.deploy.bundle import Decisions
from s2robot.deploy.chunks import ChunkBuffer
from s2robot.deploy.gate import Decision, Gate, Sense
from s2robot.deploy.limits import Limits
from s2robot.deploy.parse import parse
from s2robot.errors import S2RobotError
from s2robot.types import ActionSpec, ObservationSpec


@dataclass(frozen=True)
class Plan:
    """What a run is made of; it goes into the log's first entry. `observation` holds the cameras that the policy reads.

    `overlap`: whether the next decision is made while the chunk before it is still carried out; otherwise the robot
    holds until it has come. `every`: ticks from one decision to the next; by default each as soon as the last one has
    come, or, where the policy looks back over several, as many as they were apart in training. `blend`: see
    `ChunkBuffer`.
    """

    observation: ObservationSpec
    action: ActionSpec
    decisions: Decisions
    limits: Limits
    overlap: bool = True
    every: int | None = None
    blend: int = 0

    def gate(self) -> Gate:
        """Raises S2RobotError where the parts do not fit each other."""
        how = self.decisions
        if self.every is not None and (type(self.every) is not int or not 1 <= self.every <= how.chunk):
            raise S2RobotError(
                f"every={self.every}: give a whole number of ticks from 1 to {how.chunk}, a chunk's length"
            )
        if self.every not in (None, how.execute) and how.observation_horizon > 1:
            raise S2RobotError(
                f"every={self.every}: this policy looks back over {how.observation_horizon} decisions, {how.execute} "
                "ticks apart as it was trained; leave every=null"
            )
        if self.blend and not 0 <= self.blend < how.execute:
            raise S2RobotError(f"blend={self.blend}: give fewer ticks than are executed, {how.execute}")
        width = len(self.action.names)
        if how.representation == "absolute":
            from s2robot.data.actions import absolute_spec

            width = len(absolute_spec(self.action).names)
        return Gate.create(self.limits, self.action, self.observation, (how.chunk, width))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; the inverse of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Raises S2RobotError where a field is missing or wrong."""
        return parse(cls, dict(data), "the plan of a run", "was the log written by this version?")


@dataclass(frozen=True)
class Step:
    """A tick's decision with what led to it: `tick` counts executed actions, `proposal` is the policy's."""

    tick: int
    proposal: tuple[float, ...] | None
    decision: Decision


class Brain:
    """Gate and chunk buffer. Nothing in here looks at a clock."""

    def __init__(self, plan: Plan, sense: Sense) -> None:
        self.plan = plan
        how = plan.decisions
        self.gate = plan.gate()
        self.state = self.gate.initial(sense)
        keep = None if plan.overlap else how.execute
        self.buffer = ChunkBuffer(how.ensemble, plan.blend, keep)
        self.counters: Counter[str] = Counter()
        self.stopping = False

    # What happens to it.

    def take_chunk(self, at: int, chunk: object, captured_s: float, now_s: float) -> str:
        """A chunk whose observation belongs to tick `at` and was captured at `captured_s`. Returns why it is of no use,
        empty where it is.
        """
        self.state, fault = self.gate.check_chunk(self.state, chunk)
        if fault is not None:
            self.counters["bad chunk"] += 1
            return fault
        assert isinstance(chunk, np.ndarray)
        if not 0.0 <= now_s - captured_s <= self.plan.limits.age_s:
            self.counters["old chunk"] += 1
            return f"its observation is {now_s - captured_s:.3f} s old"
        if not self.buffer.add(at, chunk.astype(np.float64)):
            self.counters["spent chunk"] += 1
            return "spent"
        return ""

    def tick(self, sense: Sense, now_s: float) -> Step:
        """The command of this tick."""
        tick, proposal = self.buffer.tick, self._proposal(sense)
        self.state, decision = self.gate.tick(self.state, proposal, sense, now_s)
        if decision.held:
            # What was planned was planned for a motion that does not take place.
            self.buffer.flush()
        else:
            self.buffer.consume()
        self.counters.update(reason.split(":")[0] for reason in decision.reasons)
        return Step(tick, proposal, decision)

    def stop(self) -> None:
        """The run ends: brake, and execute nothing any more."""
        self.stopping = True

    def latch(self, fault: str) -> None:
        """A fault from outside the gate."""
        self.state = self.gate.latch(self.state, fault)

    def rearm(self, sense: Sense) -> None:
        """A person says go on. Raises S2RobotError while it still brakes."""
        self.state = self.gate.rearm(self.state, sense)
        self.buffer.flush()

    # What is asked of it.

    def wants_decision(self, asked_at: int | None) -> bool:
        """Whether it is time to look and decide again; `asked_at` is the tick of the last observation decided on."""
        if self.state.fault is not None or self.stopping:
            return False
        if self.buffer.planned() == 0 or asked_at is None:
            return True
        how = self.plan.decisions
        every = self.plan.every or (1 if how.observation_horizon == 1 else how.execute)
        return self.plan.overlap and self.buffer.tick - asked_at >= every

    def unfit(self, sense: Sense, now_s: float) -> tuple[str, ...]:
        """Why nothing may be inferred from what is seen now."""
        return self.gate.observe(self.state, sense, now_s)[1]

    @property
    def fault(self) -> str | None:
        """What is latched."""
        return self.state.fault

    def at_rest(self) -> bool:
        """Nothing is commanded to move."""
        return self.gate.at_rest(self.state)

    def _proposal(self, sense: Sense) -> tuple[float, ...] | None:
        action = self.buffer.action()
        if action is None or self.stopping:
            return None
        if self.plan.decisions.representation == "absolute":
            if not all(map(math.isfinite, sense.proprio)):
                return None  # the gate holds for that reason anyway
            from s2robot.data.actions import to_delta

            action = to_delta(action, np.array(sense.proprio), self.plan.action)
        return tuple(action.tolist())
