"""The limits file: what the robot may do at most, per element of its action. Without one nothing moves.

SI units: m, rad and powers of 1/s. Limits are per axis, not of a vector's length: 0.25 m/s along each of three axes is
up to 0.43 m/s across.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from s2robot.deploy.limiter import AxisLimit
from s2robot.deploy.parse import parse
from s2robot.errors import S2RobotError
from s2robot.types import ActionSpec, ObservationSpec


@dataclass(frozen=True)
class PositionLimit:
    """Where the axis may be. `of` names the element of proprioception that this action element moves."""

    of: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")


@dataclass(frozen=True)
class MotionLimit:
    """Largest speed (unit/s), acceleration (unit/s^2) and jerk (unit/s^3) of one action element, and its range."""

    velocity: float
    acceleration: float
    jerk: float
    position: PositionLimit | None = None

    def __post_init__(self) -> None:
        if not min(self.velocity, self.acceleration, self.jerk) > 0:
            raise ValueError("velocity, acceleration and jerk must be above 0")


@dataclass(frozen=True)
class Limits:
    """What the gate enforces.

    Args:
        axes: action element -> its limits.
        grippers: elements that are no motion: kept within the action spec's limits, and held where everything stops.
        age_s: an older observation stops inference and motion (per stream, local clock), and a chunk whose observation
            is older when it comes is not used.
        frozen_s: a camera whose picture is still the same so long after the arm has moved by more than `frozen_motion`
            (in the unit of each element of proprioception) shows the past.
        frozen_motion: see there.
        clamped_ticks: so many ticks in a row in which a limit changed the command latch a fault.
        bad_chunks: so many chunks in a row that are not finite, or of a wrong shape, latch a fault.
        watchdog_s: the robot's side brakes when no command came for so long; at least two ticks.
    """

    axes: dict[str, MotionLimit]
    grippers: tuple[str, ...] = ()
    age_s: float = 0.150
    frozen_s: float = 0.25
    frozen_motion: float = 0.01
    clamped_ticks: int = 20
    bad_chunks: int = 3
    watchdog_s: float = 0.1

    def __post_init__(self) -> None:
        if min(self.age_s, self.frozen_s, self.frozen_motion, self.watchdog_s) <= 0:
            raise ValueError("age_s, frozen_s, frozen_motion and watchdog_s must be above 0")
        if min(self.clamped_ticks, self.bad_chunks) < 1:
            raise ValueError("clamped_ticks and bad_chunks must be at least 1")


@dataclass(frozen=True)
class Axis:
    """One moving element as the gate sees it: `scale` SI units per unit of the action, `measured` the index in
    proprioception and `low` and `high` the range of what the position limit is of.
    """

    name: str
    index: int
    scale: float
    limit: AxisLimit
    measured: int | None
    low: float
    high: float


def parse_limits(data: Any, what: str) -> Limits:
    """Limits from plain YAML types. Raises S2RobotError naming the first field that is missing or wrong."""
    if data is None:
        raise S2RobotError(f"{what} names no limits; without them nothing moves (see docs/deployment.md)")
    return parse(Limits, data, f"limits of {what}", "see docs/deployment.md for what each field means")


def axes_of(limits: Limits, action: ActionSpec, observation: ObservationSpec) -> tuple[Axis, ...]:
    """The moving elements of an action. Raises S2RobotError for elements without limits, limits without an element, and
    positions that proprioception does not have.
    """
    named = [*limits.axes, *limits.grippers]
    if sorted(named) != sorted(action.names):
        raise S2RobotError(
            f"limits are given for {', '.join(named)}, actions have {', '.join(action.names)}; limit each element "
            "once, as an axis or as a gripper"
        )
    found = []
    for name, limit in limits.axes.items():
        index = action.names.index(name)
        place = limit.position
        if place is not None and place.of not in observation.proprio:
            raise S2RobotError(
                f"the position limit of {name} is of {place.of!r}; measured are {', '.join(observation.proprio)}"
            )
        rate = action.rate_hz
        per_tick = AxisLimit(limit.velocity / rate, limit.acceleration / rate**2, limit.jerk / rate**3)
        measured = None if place is None else observation.proprio.index(place.of)
        low, high = (place.low, place.high) if place is not None else (0.0, 0.0)
        found.append(Axis(name, index, unit_scale(action.units[index]), per_tick, measured, low, high))
    return tuple(found)


def unit_scale(unit: str) -> float:
    """SI units per unit of an action element: 0.05 for "0.05 m", 1 for "rad". Raises S2RobotError for others."""
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?(?:e-?\d+)?) )?(?:m|rad)", unit)
    scale = float(found[1] or 1.0) if found else 0.0
    if scale <= 0:
        raise S2RobotError(f"unit {unit!r} of an action is neither m nor rad nor a number of them; it has no limits")
    return scale
