"""What a robot is to the control loop: five methods.

Dims: h w frame (px), p proprioception, a action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from s2robot.deploy.gate import Sense
from s2robot.errors import S2RobotError
from s2robot.types import ActionSpec, ObservationSpec


class RobotLost(S2RobotError):
    """The robot does not answer any more. It brakes by itself (its side has a watchdog); nothing more is sent."""


@dataclass(frozen=True)
class RobotInfo:
    """What the robot says it is: compared with the policy before anything moves.

    `camera_latency_s` is how long a picture takes from its capture to its arrival: measured once, by who sets it up.
    """

    name: str
    observation: ObservationSpec
    action: ActionSpec
    camera_latency_s: float = 0.0


@dataclass(frozen=True)
class Reading:
    """The newest of everything.

    `past` are the latest readings of proprioception, oldest first, each with its arrival (s, local monotonic), so that
    a picture can be seen together with what was measured when it was taken. `fault` is what the robot's own side has
    latched, empty for nothing; `done` whether it knows that the run is over: a simulated one that the task is solved, a
    recorded one that there is no more of it.
    """

    images: Mapping[str, UInt8[np.ndarray, "h w 3"]]
    sense: Sense
    past: Sequence[tuple[float, tuple[float, ...]]] = ()
    fault: str = ""
    done: bool = False
    extra: Mapping[str, float] = field(default_factory=dict)

    def proprio_at(self, when_s: float) -> tuple[float, ...]:
        """What was measured nearest to `when_s`."""
        if not self.past:
            return self.sense.proprio
        return min(self.past, key=lambda reading: abs(reading[0] - when_s))[1]


@runtime_checkable
class Robot(Protocol):
    """Every method returns soon: `read` gives what has arrived, `write` hands over and does not wait.

    All raise RobotLost once the robot has gone.
    """

    def connect(self) -> RobotInfo:
        """Reach the robot, clear what its own side has latched, wait for the first reading of every stream."""
        ...

    def read(self) -> Reading:
        """The newest reading of every stream."""
        ...

    def write(self, command: Sequence[float]) -> None:
        """One command in the units of the action spec, once per tick."""
        ...

    def stop(self) -> None:
        """Stand still within the robot's own limits and stay so; torque stays on. Safe at any moment."""
        ...

    def close(self) -> None:
        """Let go of the robot. Safe to call twice."""
        ...
