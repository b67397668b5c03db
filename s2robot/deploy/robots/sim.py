"""The simulated robot as the control loop sees it: a robosuite Panda in its own process, on the wall clock."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np

from s2robot.deploy.gate import Sense, Sight
from s2robot.deploy.robots.interface import Reading, RobotInfo, RobotLost
from s2robot.deploy.robots.link import Link
from s2robot.deploy.wire import WireError
from s2robot.errors import S2RobotError
from s2robot.types import DatasetSpec

START_S, ANSWER_S = 60.0, 20.0
PAST_S = 0.5  # of proprioception that is kept


class SimRobot:
    """Owns its process: it starts at the first `connect` and ends at `close`.

    Beside the five methods of a robot it has those of a test bench: `start_episode`, `set_faults`, `journal`.

    Args:
        task: configuration of the task (`configs/task`), with `cameras`.
        limits: of the robot's own side: what its watchdog brakes with.
        seed: of the sensor faults.
        camera_hz: rate of every camera.
        state_hz: rate of proprioception.
        camera_latency_s: from the state that a picture shows to its arrival: what drawing takes on this machine.
        faults: see `faults.Faults`; they begin once it is connected.
    """

    def __init__(
        self,
        task: Mapping[str, Any],
        limits: Mapping[str, Any],
        seed: int = 0,
        camera_hz: float = 20.0,
        state_hz: float = 100.0,
        camera_latency_s: float = 0.0,
        faults: Mapping[str, Any] | None = None,
    ) -> None:
        self._config = {
            "task": dict(task), "limits": dict(limits), "seed": seed, "camera_hz": camera_hz, "state_hz": state_hz,
        }  # fmt: skip
        self._faults = dict(faults or {})
        self._camera_latency_s = camera_latency_s
        self._past: deque[tuple[float, tuple[float, ...]]] = deque(maxlen=round(PAST_S * state_hz))
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self._info: RobotInfo | None = None
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._images: dict[str, np.ndarray] = {}
        self._sights: dict[str, Sight] = {}
        self._state: dict[str, Any] | None = None
        self._state_s = 0.0
        self._answers: dict[int, dict[str, Any]] = {}
        self._ids = count(1)
        self._lost = ""

    # A robot.

    def connect(self) -> RobotInfo:
        """Start the process if need be, clear its watchdog. Raises S2RobotError while it still brakes, and for faults
        that do not exist.
        """
        started = self._process is None
        if started:
            self._start()
        assert self._info is not None
        answer = self._ask("arm")
        if not answer["ok"]:
            raise S2RobotError(f"the robot still brakes ({answer['fault']}); try again once it stands")
        cameras = {camera.name for camera in self._info.observation.cameras}
        with self._arrived:
            self._state = None  # the next one no longer tells of the fault that has just been cleared
            if not self._arrived.wait_for(lambda: self._lost or (self._state and cameras <= self._images.keys()), 10):
                raise RobotLost("the simulated robot sends nothing")
            self._require_there()
        if started:
            self.set_faults(**self._faults)
        return self._info

    def read(self) -> Reading:
        """The newest of everything that has arrived."""
        with self._lock:
            self._require_there()
            assert self._state is not None
            sense = Sense(tuple(self._state["proprio"].tolist()), self._state_s, dict(self._sights))
            joints = {f"joint_{i}_rad": float(q) for i, q in enumerate(self._state["joints"])}
            fault, done = self._state["fault"], bool(self._state["done"])
            return Reading(dict(self._images), sense, tuple(self._past), fault, done, joints)

    def write(self, command: Sequence[float]) -> None:
        """Over the link at once."""
        self._send({"kind": "command", "action": np.array(command, np.float64)})

    def stop(self) -> None:
        """Its own side brakes and latches."""
        self._send({"kind": "stop"})

    def close(self) -> None:
        """Ends the process."""
        if self._link is not None:
            self._link.socket.close()
            self._link = None
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    # A test bench.

    def start_episode(self, seed: int) -> str:
        """Place the arm and the objects of an episode; returns the hash of the initial state."""
        return str(self._ask("reset", seed=seed)["initial_state_sha256"])

    def set_faults(self, **faults: Any) -> None:
        """Switch faults on and off. Raises S2RobotError for one that does not exist."""
        answer = self._ask("faults", faults=json.dumps(faults))
        if "error" in answer:
            raise S2RobotError(answer["error"])

    def journal(self) -> list[dict[str, Any]]:
        """Everything that was commanded to the arm since the last call, with the monotonic time of each."""
        entries: list[dict[str, Any]] = json.loads(self._ask("journal")["journal"])
        return entries

    @property
    def goal(self) -> np.ndarray:
        """Of the episode."""
        with self._lock:
            assert self._state is not None
            return np.array(self._state["goal"])

    @property
    def pid(self) -> int:
        """Of the robot's process."""
        assert self._process is not None
        return self._process.pid

    # The link.

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "s2robot.deploy.robots.sim_process", str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
        theirs.close()
        self._link = Link(ours)
        self._link.send({"config": json.dumps(self._config)})
        threading.Thread(target=self._listen, args=(self._link,), daemon=True).start()
        with self._arrived:
            self._arrived.wait_for(lambda: self._info is not None or self._lost, START_S)
            self._require_there()
            if self._info is None:
                raise RobotLost(f"the simulated robot did not start within {START_S:g} s")

    def _listen(self, link: Link) -> None:
        lost = "the link is closed"
        try:
            while True:
                for message in link.received():
                    self._take(message, time.monotonic())
        except (OSError, EOFError, WireError) as error:
            lost = lost if link is not self._link else str(error)
        except S2RobotError as error:
            lost = str(error)
        with self._arrived:
            self._lost = lost
            self._arrived.notify_all()

    def _take(self, message: dict[str, Any], now_s: float) -> None:
        with self._arrived:
            kind = message["kind"]
            if kind == "frame":
                name = message["camera"]
                self._images[name] = message["picture"]
                self._sights[name] = Sight(message["counter"], message["stamp_s"], now_s, message["digest"])
            elif kind == "state":
                self._state, self._state_s = message, now_s
                self._past.append((now_s, tuple(message["proprio"].tolist())))
            elif kind == "answer":
                self._answers[message["id"]] = message
            elif kind == "info":
                if "error" in message:
                    raise S2RobotError(message["error"])
                spec = DatasetSpec.from_json(json.loads(message["spec"]))
                name = f"simulated Panda ({spec.task})"
                self._info = RobotInfo(name, spec.observation, spec.action, self._camera_latency_s)
            self._arrived.notify_all()

    def _ask(self, kind: str, **more: Any) -> dict[str, Any]:
        id = next(self._ids)
        self._send({"kind": kind, "id": id, **more})
        with self._arrived:
            self._arrived.wait_for(lambda: id in self._answers or self._lost, ANSWER_S)
            self._require_there()
            if id not in self._answers:
                raise RobotLost(f"the simulated robot did not answer within {ANSWER_S:g} s")
            return self._answers.pop(id)

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._link is None:
            raise RobotLost("not connected to the simulated robot")
        try:
            self._link.send(message)
        except OSError as error:
            raise RobotLost(f"the simulated robot has gone ({error})") from error

    def _require_there(self) -> None:
        if self._lost:
            raise RobotLost(f"the simulated robot has gone ({self._lost})")
