"""`s2robot control`: the loop next to the robot, at a fixed rate.

Each tick: the newest reading in, a finished chunk into the buffer, one proposal through the gate, the entry into the
log, the command out. Before it a look: what is seen then is decided on in another thread, and no tick waits for that.

Dims: a action, g goal.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float32

from s2robot.deploy.brain import Brain, Plan, Step
from s2robot.deploy.bundle import Identity
from s2robot.deploy.cadence import after_a_frame, lead_s, rehearse
from s2robot.deploy.clock import Clock, WallClock
from s2robot.deploy.deciders import Answer, Asked, Worker
from s2robot.deploy.log import Arrival, ChunkEntry, EventEntry, LogWriter, TickEntry
from s2robot.deploy.replay import LATCH, REARM, STOP
from s2robot.deploy.robots.interface import Reading, Robot, RobotInfo, RobotLost
from s2robot.deploy.wire import Request
from s2robot.errors import MismatchError, S2RobotError
from s2robot.types import Observation, ObservationSpec, require_equal

REMEMBERED = 32  # ticks: longer ago than any picture may be
TIMED = 2000  # newest of each timing that are kept: a run may take days
GARBAGE = 2000  # objects: a collection of so many takes about a millisecond


@dataclass
class Timings:
    """All in s. `late`: when a tick's command went out, after the tick's scheduled time; `capture`: from the capture of
    the oldest frame of a decision to the first command of its chunk; `infer`: what decisions took, network included.

    Of a long run the newest alone, `TIMED` of each at least: quantiles over hours take longer than a tick may.
    """

    late: list[float] = field(default_factory=list)
    capture: list[float] = field(default_factory=list)
    infer: list[float] = field(default_factory=list)
    gate: list[float] = field(default_factory=list)


def _note(times_s: list[float], time_s: float) -> None:
    times_s.append(time_s)
    if len(times_s) >= 2 * TIMED:
        del times_s[:-TIMED]


@dataclass
class Summary:
    """What a run came to. `missed` ticks whose command went out a period late or more."""

    ticks: int = 0
    sent: int = 0
    held: int = 0
    missed: int = 0
    done: bool = False
    fault: str | None = None
    counters: dict[str, int] = field(default_factory=dict)
    seams: list[float] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)


class Loop:
    """One run of one policy on one robot. `run` may be called again for the next episode.

    Args:
        robot: connected.
        info: what it said it is.
        worker: asks who decides, whose identity has been compared with `info` (`handshake`); closed with the loop.
        plan: limits, overlap and the rest.
        log: None leaves it out, for measurements of what it costs.
        goal: what the policy is asked to do.
        armed: whether commands go out; otherwise everything but that happens.
        show: called once per tick with the summary so far and the brain.
        rehearsals: decisions before each run that are timed and not executed; without them looks come at the ticks.
        clock: what ticks are timed by.
    """

    def __init__(
        self,
        robot: Robot,
        info: RobotInfo,
        worker: Worker,
        plan: Plan,
        log: LogWriter | None,
        goal: Float32[np.ndarray, " g"],
        armed: bool = False,
        show: Callable[[Summary, Brain], None] | None = None,
        rehearsals: int = 5,
        clock: Clock | None = None,
    ) -> None:
        self.robot, self.info, self.worker, self.plan, self.log = robot, info, worker, plan, log
        self.goal, self.armed, self.show, self.clock = goal, armed, show, clock or WallClock()
        self.period_s = 1.0 / plan.action.rate_hz
        self.cameras = tuple(camera.name for camera in plan.observation.cameras)
        self.rehearsals = rehearsals
        self.summary = Summary()
        self._stopping = ""
        self._brain: Brain | None = None
        self._rearm = False
        self._ids = 0
        self._executed: deque[float] = deque(maxlen=REMEMBERED)  # when the latest executed ticks were
        self._first_of: float | None = None  # capture of the newest chunk's frame, until its first command is out

    def stop(self, why: str) -> None:
        """Brake, stand, end; may be called from a signal handler."""
        self._stopping = self._stopping or why

    @property
    def stopping(self) -> str:
        """Why it is about to end; empty while it is not."""
        return self._stopping

    def rearm(self) -> None:
        """A person says go on after a fault; takes effect once everything stands. Means nothing while there is none: it
        clears no fault that comes later.
        """
        self._rearm = self._brain is not None and self._brain.fault is not None

    def close(self) -> None:
        """Ends the thread that asks."""
        self.worker.close()

    def run(
        self, ticks: int | None = None, seed: int = 0, end_at_fault: bool = True, until_done: bool = True
    ) -> Summary:
        """Run `ticks` ticks, for ever by default, or until the robot says that the task is done.

        Ends once everything stands after `stop` or, with `end_at_fault`, after a fault. Raises RobotLost where the
        robot goes, S2RobotError where the log cannot be written: the robot's own side brakes then.
        """
        self.summary, self._stopping = Summary(), ""
        self._asked: Asked | None = None
        self._first_of, self._begin, self._seed, self._rearm = None, True, seed, False
        self._executed.clear()
        self.worker.forget()
        gc.collect()
        gc.freeze()  # what is there now is looked through no more
        gc.disable()  # a collection in the middle of a tick takes longer than the gate and the log together
        try:
            decision_s = rehearse(self.robot, self.worker, self.clock, self._rehearsed, self.rehearsals)
            lead = lead_s(decision_s, self.period_s)
            reading = after_a_frame(self.robot, self.clock, next(iter(self.cameras), None), self.period_s)
            brain = self._brain = Brain(self.plan, reading.sense)
            self._tick_on(brain, reading, lead, ticks, end_at_fault, until_done)
        except RobotLost as error:
            self._event("robot lost", str(error), self.clock.now_s())
            raise
        finally:
            gc.enable()
            gc.unfreeze()
        return self.summary

    def _tick_on(
        self, brain: Brain, reading: Reading, lead: float, ticks: int | None, end_at_fault: bool, until_done: bool
    ) -> None:
        next_s = self.clock.now_s() + lead
        try:
            while not self._ended(brain, ticks, end_at_fault, until_done):
                self.clock.sleep_until(next_s - lead)
                self._look(brain, self.robot.read(), self.clock.now_s())
                self.clock.sleep_until(next_s)
                if self.summary.ticks:  # the first tick decides on what the brain was made from
                    reading = self.robot.read()
                now_s = self.clock.now_s()  # after reading: nothing that was read is of the future
                self._tick(brain, reading, now_s)
                late_s = self.clock.now_s() - next_s
                _note(self.summary.timings.late, late_s)
                if late_s >= self.period_s:
                    self.summary.missed += 1
                # A late tick moves those after it: two commands in a short time would be another speed.
                next_s = next_s + self.period_s if late_s < self.period_s / 2 else self.clock.now_s() + self.period_s
                self.summary.done = self.summary.done or reading.done
            self._pass_stop_on(brain, self.clock.now_s())  # a robot that stood has not been told
        finally:
            self.summary.fault = brain.fault
            self.summary.counters = dict(brain.counters)
            self.summary.seams = list(brain.buffer.seams)

    def _ended(self, brain: Brain, ticks: int | None, end_at_fault: bool, until_done: bool) -> bool:
        if ticks is not None and self.summary.ticks >= ticks:
            self.stop("time is up")
        if until_done and self.summary.done:
            self.stop("done")
        if brain.fault is not None and end_at_fault:
            self.stop(brain.fault)
        return bool(self._stopping) and brain.at_rest()

    def _look(self, brain: Brain, reading: Reading, now_s: float) -> None:
        """Ask for a decision on what is seen now, where it is time for one and nothing is wrong with what is seen."""
        self._take_answer(brain, now_s)
        if self.worker.busy or not brain.wants_decision(self._asked.at if self._asked else None):
            return
        if brain.unfit(reading.sense, now_s):
            return
        self._ids += 1
        request, captured_s = self._request(reading, now_s, self._ids, self._begin)
        # A policy was trained on pictures and measurements of one moment, and on what was done from that moment on.
        at = brain.buffer.tick - sum(when_s > captured_s for when_s in self._executed)
        self._asked, self._begin = Asked(request, at, captured_s, self.clock.now_s()), False
        self.worker.ask(self._asked)

    def _rehearsed(self, reading: Reading) -> Asked:
        now_s = self.clock.now_s()
        request, captured_s = self._request(reading, now_s, id=0, begin=True)
        return Asked(request, 0, captured_s, now_s, rehearsed=True)

    def _request(self, reading: Reading, now_s: float, id: int, begin: bool) -> tuple[Request, float]:
        """What is seen, as one moment, and when that was."""
        sense = reading.sense
        images = {camera: reading.images[camera] for camera in self.cameras}
        arrivals_s = [sense.cameras[camera].received_s - self.info.camera_latency_s for camera in self.cameras]
        captured_s = min(arrivals_s, default=sense.received_s)
        proprio = np.array(reading.proprio_at(captured_s), np.float32)
        return Request(Observation(images, proprio, self.goal, now_s), id, begin, None, self._seed), captured_s

    def _tick(self, brain: Brain, reading: Reading, now_s: float) -> None:
        if self._rearm and brain.at_rest():
            reading, now_s = self._armed_again(brain, reading, now_s)
            self._rearm = False
        self._take_answer(brain, now_s)
        if reading.fault and brain.fault is None:
            self._latch(brain, f"the robot's own side: {reading.fault}", now_s)
        self._pass_stop_on(brain, now_s)
        start_s = time.perf_counter()
        step = brain.tick(reading.sense, now_s)
        _note(self.summary.timings.gate, time.perf_counter() - start_s)
        self._send(brain, reading, step, now_s)
        if self.show is not None:
            self.show(self.summary, brain)

    def _pass_stop_on(self, brain: Brain, now_s: float) -> None:
        if self._stopping and not brain.stopping:
            self._event(STOP, self._stopping, now_s)
            brain.stop()

    def _armed_again(self, brain: Brain, reading: Reading, now_s: float) -> tuple[Reading, float]:
        """Clear what the robot's own side has latched, then the gate; a robot that still brakes leaves all as it is."""
        try:
            self.robot.connect()
        except RobotLost:
            raise
        except S2RobotError as error:
            self._event("not re-armed", str(error), now_s)
            return reading, now_s
        reading, now_s = self.robot.read(), self.clock.now_s()
        self._event(REARM, "by a person", now_s)
        brain.rearm(reading.sense)
        return reading, now_s

    def _send(self, brain: Brain, reading: Reading, step: Step, now_s: float) -> None:
        fault, summary = brain.fault or "", self.summary
        if self.log is not None:
            self._written(lambda log: log.tick(TickEntry(now_s, reading.sense, step, fault, self.armed)))
        if self.armed:
            self.robot.write(step.decision.command)
            summary.sent += 1
        summary.ticks += 1
        summary.held += step.decision.held
        if not step.decision.held:
            self._executed.append(now_s)
        if self._first_of is not None and not step.decision.held:
            _note(summary.timings.capture, self.clock.now_s() - self._first_of)
            self._first_of = None
        if step.decision.held and brain.at_rest() and gc.get_count()[0] > GARBAGE:
            gc.collect()  # a run that waits for its server for hours would grow; while nothing moves none is late

    def _take_answer(self, brain: Brain, now_s: float) -> None:
        for picture in self.worker.filmed():
            self._written(partial(LogWriter.picture, entry=picture))
        answer = self.worker.answer()
        if answer is None:
            return
        if answer.error is not None:
            self._failed(brain, answer, now_s)
            return
        asked = answer.asked
        _note(self.summary.timings.infer, answer.took_s)
        arrival = Arrival(asked.request.id, asked.at, asked.captured_s, asked.asked_s, answer.chunk)
        verdict = brain.take_chunk(asked.at, answer.chunk, asked.captured_s, now_s)
        if self.log is not None:
            self._written(lambda log: log.chunk(ChunkEntry(now_s, arrival, verdict)))
        if not verdict:
            self._first_of = asked.captured_s

    def _failed(self, brain: Brain, answer: Answer, now_s: float) -> None:
        """No chunk: hold, and ask again at the next tick. Another policy than was agreed on is a fault."""
        self._asked = None
        brain.counters["no decision"] += 1
        self._event("no decision", str(answer.error), now_s)
        if isinstance(answer.error, MismatchError):
            self._latch(brain, f"another policy answers: {answer.error}", now_s)

    def _latch(self, brain: Brain, fault: str, now_s: float) -> None:
        self._event(LATCH, fault, now_s)
        brain.latch(fault)

    def _event(self, kind: str, text: str, now_s: float) -> None:
        self._written(lambda log: log.event(EventEntry(now_s, kind, text)))

    def _written(self, write: Callable[[LogWriter], Any]) -> None:
        """No log, no motion: where an entry cannot be written, no command follows, and the robot's own side brakes."""
        if self.log is None:
            return
        try:
            write(self.log)
        except S2RobotError as error:
            self.log.abandon()
            if self.armed:
                self.robot.stop()
            raise S2RobotError(f"nothing moves without a log: {error}") from error


def handshake(identity: Identity, info: RobotInfo) -> ObservationSpec:
    """Policy and robot speak of the same things; returns what the robot shows of what the policy reads.

    Raises MismatchError naming the first difference, before anything is armed.
    """
    remedy = f"{info.name} is not the robot that this policy was trained for; map names in its YAML, or train for it"
    require_equal("the action", identity.action, info.action, remedy)
    ours, theirs = identity.observation, info.observation
    require_equal("proprioception", list(ours.proprio), list(theirs.proprio), remedy)
    known = {camera.name: camera for camera in theirs.cameras}
    for camera in ours.cameras:
        require_equal(f"camera {camera.name}", camera, known.get(camera.name), remedy)
    return ours
