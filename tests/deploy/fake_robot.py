"""A robot without physics: does exactly what it is told, at once; its clock is the wall's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from s2robot.deploy.gate import Sense, Sight
from s2robot.deploy.robots.interface import Reading, RobotInfo, RobotLost
from s2robot.deploy.wire import Request
from s2robot.errors import S2RobotError
from tests.deploy.tiny_bundle import ACTION, OBSERVATION, PX


class FakeRobot:
    def __init__(self) -> None:
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
        now_s = self.frozen_since or time.monotonic()
        self._count += self.frozen_since is None
        image = np.full((PX, PX, 3), self._count % 256, np.uint8)
        sight = Sight(self._count, now_s, now_s, self._count)
        return Reading(
            {"front": image}, Sense((*self.place, 0.0), time.monotonic(), {"front": sight}), fault=self.fault
        )

    def write(self, command: Sequence[float]) -> None:
        self.written.append((time.monotonic(), tuple(command)))
        for axis in range(2):
            self.place[axis] += 0.05 * command[axis]

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.stopped = True


class FakeDecider:
    """Chunks by a function of the request's number."""

    def __init__(self, identity: Any, decisions: Any, chunk: Any, delay_s: float = 0.0) -> None:
        self.identity, self.decisions, self._chunk, self.delay_s = identity, decisions, chunk, delay_s
        self.requests: list[Request] = []

    def decide(self, request: Request) -> Any:
        self.requests.append(request)
        time.sleep(self.delay_s)
        return self._chunk(len(self.requests) - 1)

    def close(self) -> None:
        pass
