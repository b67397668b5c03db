"""When to look and when to command: as late as possible before a tick, as soon as possible after a picture.

A command goes out at every tick. What it is decided on should be fresh, and the decision there just before the tick:
so the loop looks `lead_s` before each tick, which is how long decisions take, and that moment is just after a frame.
"""

from __future__ import annotations

from collections.abc import Callable

from s2robot.deploy.clock import Clock
from s2robot.deploy.deciders import Asked, Worker
from s2robot.deploy.robots.interface import Reading, Robot

POLL_S = 0.002
CAMERA_JITTER_S = 0.005  # a frame may be so much later than the one before it
MARGIN_S = 0.004  # a decision may take so much longer than those that were rehearsed
LONGEST_S = 1.0  # of a rehearsed decision


def rehearse(robot: Robot, worker: Worker, clock: Clock, ask: Callable[[Reading], Asked], times: int) -> float:
    """How long a decision takes, network included (s): the slowest of `times`, whose chunks nobody executes.

    0 where none comes: then there is nothing to go by.
    """
    slowest_s = 0.0
    for _ in range(times):
        asked = ask(robot.read())
        worker.ask(asked)
        while (answer := worker.answer()) is None and clock.now_s() < asked.asked_s + LONGEST_S:
            clock.sleep_until(clock.now_s() + POLL_S)
        if answer is None or answer.error is not None:
            worker.forget()
            return 0.0
        slowest_s = max(slowest_s, answer.took_s)
    return slowest_s


def lead_s(decision_s: float, period_s: float) -> float:
    """How long before a tick to look: what does not fill whole periods; nothing where it is not known."""
    return (decision_s + MARGIN_S) % period_s if decision_s else 0.0


def after_a_frame(robot: Robot, clock: Clock, camera: str | None, period_s: float) -> Reading:
    """Wait until `camera` delivers, and for its jitter, two periods at most: where it runs at the loop's rate, any look
    whole periods later sees a fresh picture too.
    """
    reading = robot.read()
    if camera is None:
        return reading
    before, deadline_s = reading.sense.cameras.get(camera), clock.now_s() + 2 * period_s
    while reading.sense.cameras.get(camera) == before and clock.now_s() < deadline_s:
        clock.sleep_until(clock.now_s() + POLL_S)
        reading = robot.read()
    clock.sleep_until(clock.now_s() + CAMERA_JITTER_S)
    return robot.read()
