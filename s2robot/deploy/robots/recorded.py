"""A recorded run as a robot: what it saw comes again at the pace of then, what it is told goes nowhere."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s2robot.deploy.log import LogReader, PictureEntry, TickEntry
from s2robot.deploy.robots.interface import Reading, RobotInfo
from s2robot.errors import S2RobotError


class RecordedRobot:
    """To try a policy on what a robot saw, and a gate on what it did, before either meets the robot.

    Only the pictures that were decided on are in a log: between two of them the last one is shown, with the counters
    and stamps that were read then.

    Args:
        path: log of a run with pictures.
        limits: unused here; a robot's configuration may have them, for the gate.
    """

    def __init__(self, path: str, limits: Any = None) -> None:
        self._path = Path(path)
        self.written: list[tuple[float, ...]] = []
        self._ticks: list[TickEntry] = []
        self._pictures: list[dict[str, PictureEntry]] = []
        self._start_s = 0.0
        self._info: RobotInfo | None = None

    def connect(self) -> RobotInfo:
        """Read the log; the first reading is that of the first tick that had seen a picture of every camera. Connecting
        again goes on from where it is.
        """
        if self._info is None:
            self._info = self._begin()
        return self._info

    def _begin(self) -> RobotInfo:
        log = LogReader(self._path)
        shown: dict[str, PictureEntry] = {}
        for entry in log.entries():
            if isinstance(entry, PictureEntry):
                shown = {**shown, entry.camera: entry}
            elif isinstance(entry, TickEntry) and len(shown) == len(log.plan.observation.cameras):
                self._ticks.append(entry)
                self._pictures.append(shown)
        if not self._ticks:
            raise S2RobotError(f"{self._path} has no pictures to show; record with pictures=true")
        self._start_s = time.monotonic()
        return RobotInfo(f"record of {log.about.get('robot', 'a robot')}", log.plan.observation, log.plan.action)

    def read(self) -> Reading:
        """What was read at this moment of the run; done from its last tick on."""
        since_s = time.monotonic() - self._start_s
        first_s = self._ticks[0].now_s
        place = bisect_right(self._ticks, first_s + since_s, key=lambda entry: entry.now_s) - 1
        entry, shift_s = self._ticks[max(place, 0)], self._start_s - first_s
        sense = entry.sense
        cameras = {n: s._replace(received_s=s.received_s + shift_s) for n, s in sense.cameras.items()}
        moved = sense._replace(received_s=sense.received_s + shift_s, cameras=cameras)
        images: dict[str, np.ndarray] = {n: p.decode() for n, p in self._pictures[max(place, 0)].items()}
        return Reading(images, moved, done=place == len(self._ticks) - 1)

    def write(self, command: Sequence[float]) -> None:
        """Kept in `written`."""
        self.written.append(tuple(command))

    def stop(self) -> None:
        """Nothing moves."""

    def close(self) -> None:
        """Nothing to let go of."""
