"""Plans and senses for tests of gate, brain and log."""

from __future__ import annotations

from typing import Any

from s2robot.deploy.brain import Plan
from s2robot.deploy.bundle import Decisions
from s2robot.deploy.gate import Sense, Sight
from s2robot.deploy.limits import Limits, parse_limits
from tests.deploy.tiny_bundle import ACTION, OBSERVATION

PERIOD_S = 1 / ACTION.rate_hz
HALF_BOX_M = 0.2


def limits(**changes: Any) -> Limits:
    axis = {"velocity": 0.5, "acceleration": 4.0, "jerk": 60.0}
    place = {"low": -HALF_BOX_M, "high": HALF_BOX_M}
    axes = {name: axis | {"position": place | {"of": of}} for name, of in (("dx", "x_m"), ("dy", "y_m"))}
    return parse_limits({"axes": axes, "grippers": ["gripper"], **changes}, "the test")


def plan(overlap: bool = True, blend: int = 0, chunk: int = 8, **changes: Any) -> Plan:
    return Plan(OBSERVATION, ACTION, Decisions(1, chunk, 4, None, "delta"), limits(**changes), overlap, None, blend)


def sense(now_s: float, x: float = 0.0, y: float = 0.0, counter: int | None = None, digest: int | None = None) -> Sense:
    """Fresh at `now_s`; each picture differs from the last one unless told otherwise."""
    count = round(now_s * 1000) if counter is None else counter
    return Sense((x, y, 0.0), now_s, {"front": Sight(count, now_s, now_s, count if digest is None else digest)})
