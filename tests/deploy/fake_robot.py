"""A robot without physics, which does exactly what it is told, at once; and time that passes only when asked to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from s2robot.deploy.clock import Clock, WallClock
from s2robot.deploy.deciders import Answer, Asked, Worker
from s2robot.deploy.gate import Sense, Sight
from s2robot.deploy.log import PictureEntry
from s2robot.deploy.robots.interface import Reading, RobotInfo, RobotLost
from s2robot.deploy.wire import Request
from s2robot.errors import S2RobotError
from tests.deploy.tiny_bundle import ACTION, OBSERVATION, PX


class TestClock:
    """Time passes by sleeping, and a little by looking at it."""

    __test__ = False
    LOOK_S = 1e-5

    def __init__(self) -> None:
        self._now_s = 1000.0

    def now_s(self) -> float:
        self._now_s += self.LOOK_S
        return self._now_s

    def sleep_until(self, when_s: float) -> None:
        self._now_s = max(self._now_s, when_s)


class FakeRobot:
    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or WallClock()
        self.place = [0.0, 0.0]
        self.written: list[tuple[float, tuple[float, ...]]] = []
        self.stopped = self.lost = False
        self.fault = ""
        self.braking = False
        self.frozen_since: float | None = None
        self._count = 0

    def connect(self) -> RobotInfo:
        if self.braking:
            raise S2RobotError("the fake robot still brakes")
        self.fault = ""
        return RobotInfo("fake", OBSERVATION, ACTION)

    def read(self) -> Reading:
        if self.lost:
            raise RobotLost("the fake robot has gone")
        now_s = self.frozen_since or self.clock.now_s()
        self._count += self.frozen_since is None
        image = np.full((PX, PX, 3), self._count % 256, np.uint8)
        sight = Sight(self._count, now_s, now_s, self._count)
        return Reading(
            {"front": image}, Sense((*self.place, 0.0), self.clock.now_s(), {"front": sight}), fault=self.fault
        )

    def write(self, command: Sequence[float]) -> None:
        self.written.append((self.clock.now_s(), tuple(command)))
        for axis in range(2):
            self.place[axis] += 0.05 * command[axis]

    def freeze(self) -> None:
        """The camera delivers nothing from now on."""
        self.frozen_since = self.clock.now_s()

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.stopped = True


class FakeDecider:
    """Chunks by a function of the request's number."""

    def __init__(self, identity: Any, decisions: Any, chunk: Any) -> None:
        self.identity, self.decisions, self._chunk = identity, decisions, chunk
        self.requests: list[Request] = []

    def decide(self, request: Request) -> Any:
        self.requests.append(request)
        return self._chunk(len(self.requests) - 1)

    def close(self) -> None:
        pass


class TestWorker(Worker):
    """No thread: answers `delay_s` after it was asked, by the test's clock."""

    __test__ = False

    def __init__(self, decider: FakeDecider, clock: TestClock, delay_s: float) -> None:
        self._decider, self.clock, self.delay_s = decider, clock, delay_s
        self._asked: Asked | None = None

    @property
    def busy(self) -> bool:  # type: ignore[override]
        return self._asked is not None

    def ask(self, asked: Asked) -> None:
        self._asked = asked

    def answer(self) -> Answer | None:
        asked = self._asked
        if asked is None or self.clock.now_s() < asked.asked_s + self.delay_s:
            return None
        chunk, self._asked = self._decider.decide(asked.request), None
        return Answer(asked, chunk, None, self.delay_s)

    def filmed(self) -> Iterator[PictureEntry]:
        return iter(())

    def forget(self) -> None:
        self._asked = None

    def end(self) -> None:
        pass
