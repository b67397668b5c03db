"""The simulated robot's own process: physics on the wall clock, cameras at their rate, a watchdog, faults to switch on.

    python -m s2robot.deploy.robots.sim_process FD        (started by `SimRobot`; FD is one end of a socket pair)

Everything that came over the link and what was done with it is journalled, so that a test can say what reached the arm.

Dims: h w frame (px).
"""

from __future__ import annotations

import json
import queue
import select
import socket
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any

import numpy as np
from jaxtyping import UInt8

from s2robot.deploy.limits import axes_of, parse_limits
from s2robot.deploy.robots.faults import Faults
from s2robot.deploy.robots.link import Link
from s2robot.deploy.robots.watchdog import Watchdog
from s2robot.errors import S2RobotError
from s2robot.gl import select_gl_backend

NOISY_VALUES = 32  # of a picture
NOTED = 10_000  # latest entries of the journal: over eight minutes at 20 Hz; a scenario of the benches takes seconds
MOST_LAG_S = 0.25  # a process that was stopped goes on from here, it does not race to catch up


@dataclass
class _Camera:
    period_s: float
    due_s: float = 0.0
    counter: int = 0
    frozen_at: np.ndarray | None = None


class _Photographer(threading.Thread):
    """Draws in a thread of its own, from copies of the state: physics goes on meanwhile."""

    def __init__(self, task: Any) -> None:
        super().__init__(name="cameras", daemon=True)
        import mujoco

        self._mujoco, self._task = mujoco, task
        self._orders: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()
        self.frames: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.busy: set[str] = set()
        self._spare: list[Any] = []

    def take(self, camera: str, counter: int) -> None:
        """A picture of the state of this moment; none where the last one of this camera is not finished."""
        if camera in self.busy:
            return
        self.busy.add(camera)
        copy = self._spare.pop() if self._spare else self._mujoco.MjData(self._task.model)
        self._mujoco.mj_copyData(copy, self._task.model, self._task.data)
        self._orders.put((camera, counter, copy))

    def run(self) -> None:
        """The GL context belongs to this thread."""
        from s2robot.envs.renderer import LeanRenderer

        renderer = LeanRenderer(self._task.model, self._task.frame_px, self._task.frame_px)
        while True:
            camera, counter, state = self._orders.get()
            picture = renderer.render(state, camera)
            stamp_s = float(state.time)
            self._spare.append(state)
            self.busy.discard(camera)
            self.frames.put({"camera": camera, "counter": counter, "stamp_s": stamp_s, "picture": picture})


class SimProcess:
    """One robot in one world. `run` ends when the other end closes."""

    def __init__(self, link: Link, config: Mapping[str, Any]) -> None:
        from s2robot.envs import make_task
        from s2robot.envs.realtime import RealTimeTask

        self.link = link
        task = dict(config["task"])
        self.world = RealTimeTask(make_task(task))
        self.spec = self.world.task.dataset_spec(task["cameras"])
        limits = parse_limits(config["limits"], "the simulated robot")
        self.limits = limits
        self.axes = axes_of(limits, self.spec.action, self.spec.observation)
        self.watchdog = self._new_watchdog()
        self.cameras = {name: _Camera(1.0 / float(config["camera_hz"])) for name in task["cameras"]}
        self._photographer = _Photographer(self.world.task)
        self._photographer.start()
        self.state_period_s = 1.0 / float(config["state_hz"])
        self.rng = np.random.default_rng(int(config["seed"]))
        self.faults = Faults()
        self.journal: deque[dict[str, Any]] = deque(maxlen=NOTED)
        self._outbox: list[tuple[float, int, dict[str, Any]]] = []
        self._order = count()
        self._state_due_s = 0.0
        self._done = False
        self._state_counter = 0

    def _new_watchdog(self) -> Watchdog:
        action = self.spec.action
        return Watchdog(self.axes, len(action.names), 1.0 / action.rate_hz, self.limits.watchdog_s)

    def run(self) -> None:
        """Physics, cameras, messages, in turns."""
        self.world.reset(0)
        last_s = time.monotonic()
        behind_s = 0.0
        while True:
            wake_s = min(last_s + self.world.step_s, *(c.due_s for c in self.cameras.values()), self._state_due_s)
            timeout_s = max(0.0, min(wake_s, last_s + self.world.step_s) - time.monotonic())
            if select.select([self.link.socket], [], [], timeout_s)[0]:
                try:
                    for message in self.link.received():
                        self._handle(message)
                except EOFError:
                    return
            now_s = time.monotonic()
            behind_s = min(behind_s + now_s - last_s, MOST_LAG_S)
            last_s = now_s
            braking = self.watchdog.due(now_s)
            if braking is not None:
                self._execute(braking, now_s, "brake")
            steps = int(behind_s / self.world.step_s)
            if steps:
                self.world.advance(steps)
                behind_s -= steps * self.world.step_s
                self._done = self._done or self.world.task.is_success()
            self._sense(now_s)
            self._send_due()

    # What comes in.

    def _handle(self, message: dict[str, Any]) -> None:
        now_s = time.monotonic()
        kind = message.get("kind")
        if kind == "command":
            if not self.faults.cut:
                self._command(message["action"], now_s)
        elif kind == "stop":
            self.watchdog.latch("told to stop")
        elif kind == "arm":
            self._reply(message, {"ok": self.watchdog.rearm(), "fault": self.watchdog.fault})
        elif kind == "reset":
            self._reset(message)
        elif kind == "faults":
            self._set_faults(message)
        elif kind == "journal":
            self._reply(message, {"journal": json.dumps(list(self.journal))})
            self.journal.clear()

    def _command(self, action: np.ndarray, now_s: float) -> None:
        accepted = self.watchdog.command(action.tolist(), now_s)
        self._note("command", now_s, action.tolist(), accepted=accepted)
        if accepted:
            self.world.command(action)

    def _execute(self, action: tuple[float, ...], now_s: float, kind: str) -> None:
        self._note(kind, now_s, list(action), fault=self.watchdog.fault)
        self.world.command(action)

    def _note(self, kind: str, now_s: float, action: list[float], **more: Any) -> None:
        """What was commanded to the arm; braking is noted until it stands."""
        if kind == "brake" and self.journal and self.journal[-1]["kind"] == "brake" and self.journal[-1]["rest"]:
            return
        # JSON has no NaN: what is not finite is noted as such.
        finite = bool(np.isfinite(action).all())
        entry = {"kind": kind, "time_s": now_s, "action": action if finite else [repr(x) for x in action]}
        self.journal.append(entry | {"finite": finite, "rest": self.watchdog.at_rest()} | more)

    def _reset(self, message: dict[str, Any]) -> None:
        state = self.world.reset(int(message["seed"]))
        self.world.stick(self.faults.stuck_joint)  # the world was made anew
        self._done, self.watchdog = False, self._new_watchdog()
        now_s = time.monotonic()
        for camera in self.cameras.values():
            camera.due_s = now_s
        self._state_due_s = now_s
        self._outbox.clear()
        self._show()
        self._reply(message, {"initial_state_sha256": state})

    def _set_faults(self, message: dict[str, Any]) -> None:
        try:
            self.faults = self.faults.changed(json.loads(message["faults"]), self.cameras)
        except S2RobotError as error:
            self._reply(message, {"error": str(error)})
            return
        self.world.stick(self.faults.stuck_joint)
        self._reply(message, {})

    def _reply(self, message: dict[str, Any], answer: dict[str, Any]) -> None:
        """Answers to the test bench go past the faults."""
        self.link.send({"kind": "answer", "id": message.get("id", 0), **answer})

    # What goes out.

    def _sense(self, now_s: float) -> None:
        for name, camera in self.cameras.items():
            if now_s < camera.due_s:
                continue
            camera.due_s = max(camera.due_s + camera.period_s, now_s)
            camera.counter += 1
            if self.faults.stopped != name and self.rng.random() >= self.faults.drop_frames:
                self._photographer.take(name, camera.counter)
        while not self._photographer.frames.empty():
            self._post_frame(self._photographer.frames.get())
        if now_s >= self._state_due_s:
            self._state_due_s = max(self._state_due_s + self.state_period_s, now_s)
            self._post(self._state())

    def _post_frame(self, frame: dict[str, Any], at_once: bool = False) -> None:
        camera = self.cameras[frame["camera"]]
        if self.faults.frozen == frame["camera"] and camera.frozen_at is not None:
            frame["picture"] = camera.frozen_at
        else:
            frame["picture"] = self._noisy(frame["picture"])
        camera.frozen_at = frame["picture"]
        self._post({"kind": "frame", **frame, "digest": zlib.crc32(frame["picture"].tobytes())}, at_once)

    def _noisy(self, picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """No sensor gives the same picture twice, and one that does is taken for frozen: a few values differ by one."""
        noisy = picture.copy()
        noisy.flat[self.rng.integers(picture.size, size=NOISY_VALUES)] ^= 1
        return noisy

    def _show(self) -> None:
        """Pictures of this very moment, waited for: an episode begins."""
        for name, camera in self.cameras.items():
            while name in self._photographer.busy:
                time.sleep(0.001)
            camera.counter += 1
            self._photographer.take(name, camera.counter)
        waiting = set(self.cameras)
        while waiting:
            frame = self._photographer.frames.get()
            if frame["counter"] == self.cameras[frame["camera"]].counter:
                waiting.discard(frame["camera"])
                self._post_frame(frame, at_once=True)
        self._post(self._state(), at_once=True)

    def _state(self) -> dict[str, Any]:
        observation = self.world.task.observe(())
        proprio = observation.proprio
        if self.faults.proprio_noise:
            proprio = proprio + self.rng.normal(0.0, self.faults.proprio_noise, proprio.shape).astype(np.float32)
        self._state_counter += 1
        positions, speeds = self.world.joints()
        return {
            "kind": "state",
            "counter": self._state_counter,
            "proprio": proprio,
            "joints": positions,
            "joint_speeds": speeds,
            "goal": observation.goal,
            "fault": self.watchdog.fault,
            "done": self._done,
        }

    def _post(self, message: dict[str, Any], at_once: bool = False) -> None:
        if at_once:  # past the faults: a late or cut line would leave the loop in the episode before
            self.link.send(message)
            return
        late_s = self.faults.latency_s + self.faults.jitter_s * float(self.rng.random())
        heappush(self._outbox, (time.monotonic() + late_s, next(self._order), message))

    def _send_due(self) -> None:
        while self._outbox and self._outbox[0][0] <= time.monotonic():
            message = heappop(self._outbox)[2]
            if not self.faults.cut:
                self.link.send(message)


def main() -> None:
    """Read the configuration from the link, say who the robot is, run."""
    link = Link(socket.socket(fileno=int(sys.argv[1])))
    select_gl_backend()
    config: dict[str, Any] = {}
    while not config:
        for message in link.received():
            config = json.loads(message["config"])
    try:
        process = SimProcess(link, config)
    except S2RobotError as error:
        link.send({"kind": "info", "error": str(error)})
        return
    link.send({"kind": "info", "spec": json.dumps(process.spec.to_json())})
    try:
        process.run()
    except (OSError, KeyboardInterrupt):  # the loop has gone, or Ctrl-C reached both: the loop is who stops the arm
        return


if __name__ == "__main__":
    main()
