"""The gate: every command passes through it, and what it does is a pure function of (state, command, clock).

It is no safety function. It is the layer that keeps a policy's mistakes, a stale picture or a lost server from becoming
motion: what cannot be trusted is not executed, what goes too far is limited, what keeps failing latches a fault, and
holding still means braking within the limits with the gripper as it was.

Dims: k chunk, a action.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from s2robot.deploy.limiter import REST, AxisState, step
from s2robot.deploy.limits import Axis, Limits, axes_of
from s2robot.errors import S2RobotError
from s2robot.types import ActionSpec, ObservationSpec

CHANGED = 1e-6  # of full speed: less is rounding, not a limit at work
EARLIEST = 0.5  # of a period: a command sooner after the last one would be another speed than was limited


class Sight(NamedTuple):
    """The newest frame of one camera: its capture counter and stamp (s, the camera's clock), when it arrived (s, local
    monotonic clock) and the checksum of its pixels.
    """

    counter: int
    stamp_s: float
    received_s: float
    digest: int


class Sense(NamedTuple):
    """What was measured when a tick began: proprioception, when it arrived (s, local monotonic), and each camera."""

    proprio: tuple[float, ...]
    received_s: float
    cameras: Mapping[str, Sight]


class Watch(NamedTuple):
    """What a camera shows, with the highest counter and stamp that it ever had; where the arm was when it began to show
    that, and since when the arm is elsewhere.
    """

    sight: Sight
    advanced_s: float  # when counter and stamp last moved on
    proprio: tuple[float, ...]
    moved_s: float = math.inf


class GateState(NamedTuple):
    """All that the gate remembers. `fault` stays until a person re-arms; `setpoint` is of absolute commands; `told` are
    the latest ticks, oldest first: when, and the displacement that was commanded of each axis.
    """

    axes: tuple[AxisState, ...]
    grippers: tuple[float, ...]
    setpoint: tuple[float, ...] | None = None
    fault: str | None = None
    clamped: int = 0
    bad_chunks: int = 0
    time_s: float = -math.inf
    watches: Mapping[str, Watch] = {}
    told: tuple[tuple[float, tuple[float, ...]], ...] = ()


class Decision(NamedTuple):
    """`command` in the units of the action spec; `reasons` say what was done to the proposal, empty for nothing."""

    command: tuple[float, ...]
    reasons: tuple[str, ...]
    held: bool


@dataclass(frozen=True)
class Gate:
    """The constants of `tick` and `check_chunk`: nothing here changes while it runs."""

    limits: Limits
    action: ActionSpec
    observation: ObservationSpec
    cameras: tuple[str, ...]
    axes: tuple[Axis, ...]
    grippers: tuple[int, ...]
    chunk: tuple[int, int]

    @classmethod
    def create(cls, limits: Limits, action: ActionSpec, observation: ObservationSpec, chunk: tuple[int, int]) -> Gate:
        """For chunks of shape `chunk` (k, a), whose a is longer than an action's where target poses become deltas.

        Raises S2RobotError where limits, action and observation do not fit each other.
        """
        if limits.watchdog_s < 2 / action.rate_hz:
            raise S2RobotError(f"watchdog_s={limits.watchdog_s}: give two ticks of {1 / action.rate_hz:g} s at least")
        if action.mode == "absolute" and action.rotation not in ("none", "axis_angle"):
            raise S2RobotError(
                f"absolute commands with {action.rotation} rotations are not limited here; command deltas"
            )
        axes = axes_of(limits, action, observation)
        if action.mode == "absolute" and any(axis.measured is None for axis in axes):
            raise S2RobotError("absolute commands need a position limit for every axis: it says what is measured of it")
        grippers = tuple(action.names.index(name) for name in limits.grippers)
        cameras = tuple(camera.name for camera in observation.cameras)
        return cls(limits, action, observation, cameras, axes, grippers, chunk)

    @cached_property
    def told_ticks(self) -> int:
        """As many ticks as fit into the age of a reading that is still used, and one."""
        return math.ceil(self.limits.age_s * self.action.rate_hz / EARLIEST) + 1

    def initial(self, sense: Sense, grippers: Sequence[float] | None = None) -> GateState:
        """At rest where the robot is, no fault. `grippers`: what they are commanded now, 0 by default.

        Raises S2RobotError where commands are absolute and it is not known where the robot is.
        """
        held = tuple(map(float, grippers)) if grippers is not None else (0.0,) * len(self.grippers)
        return GateState((REST,) * len(self.axes), held, self._measured_setpoint(sense))

    def _measured_setpoint(self, sense: Sense) -> tuple[float, ...] | None:
        if self.action.mode != "absolute":
            return None
        places = tuple(sense.proprio[axis.measured] for axis in self.axes if axis.measured is not None)
        if not all(map(math.isfinite, places)):
            raise S2RobotError(f"the robot says that it is at {places}; absolute commands start from where it is")
        return places

    # Chunks.

    def check_chunk(self, state: GateState, chunk: object) -> tuple[GateState, str | None]:
        """Whether a chunk may be used at all, and why not: a wrong type, shape or dtype, NaN, infinity.

        Checked before anything is computed with it: the usual clamp max(min(nan, cap), -cap) passes NaN on.
        """
        reason = self._chunk_fault(chunk)
        if reason is None:
            return state._replace(bad_chunks=0), None
        state = state._replace(bad_chunks=state.bad_chunks + 1)
        if state.bad_chunks >= self.limits.bad_chunks and state.fault is None:
            state = state._replace(fault=f"{state.bad_chunks} bad chunks in a row, the last: {reason}")
        return state, reason

    def _chunk_fault(self, chunk: object) -> str | None:
        if not isinstance(chunk, np.ndarray):
            return "no array"
        if chunk.dtype not in (np.float32, np.float64):
            return f"dtype {chunk.dtype}, not float32"
        if chunk.shape != self.chunk:
            return f"shape {chunk.shape}, not {self.chunk}"
        if not np.isfinite(chunk).all():
            return "not finite"
        return None

    # Observations.

    def observe(self, state: GateState, sense: Sense, now_s: float) -> tuple[GateState, tuple[str, ...]]:
        """What is wrong with what the policy would see now; nothing may be inferred from it then, and nothing moves."""
        wrong = []
        watches = dict(state.watches)
        if not self._is_known(sense.proprio):
            wrong.append("proprioception is not finite")
        if not 0.0 <= now_s - sense.received_s <= self.limits.age_s:
            wrong.append("proprioception is old")
        for camera in self.cameras:
            sight = sense.cameras.get(camera)
            if sight is None:
                wrong.append(f"{camera} is missing")
                continue
            watch = watches[camera] = self._watched(watches.get(camera), sight, sense.proprio, now_s)
            if not 0.0 <= now_s - min(sight.received_s, watch.advanced_s) <= self.limits.age_s:
                wrong.append(f"{camera} is old")
            elif now_s - watch.moved_s > self.limits.frozen_s:
                wrong.append(f"{camera} is frozen")
        return state._replace(watches=watches), tuple(wrong)

    def _watched(self, before: Watch | None, sight: Sight, proprio: tuple[float, ...], now_s: float) -> Watch:
        if before is None:
            return Watch(sight, sight.received_s, proprio)
        # Compared with the highest ever, or two old frames in turn would always be newer than the one before.
        counter, stamp_s = max(before.sight.counter, sight.counter), max(before.sight.stamp_s, sight.stamp_s)
        newest = sight._replace(counter=counter, stamp_s=stamp_s)
        moved_on = sight.counter > before.sight.counter and sight.stamp_s > before.sight.stamp_s
        advanced_s = sight.received_s if moved_on else before.advanced_s
        if sight.digest != before.sight.digest:
            return Watch(newest, advanced_s, proprio)
        where = before.proprio if self._is_known(before.proprio) else proprio
        moved_s = before.moved_s
        if any(abs(b - a) > self.limits.frozen_motion for a, b in zip(where, proprio, strict=False)):
            moved_s = min(moved_s, now_s)
        return Watch(newest, advanced_s, where, moved_s)

    def _is_known(self, proprio: tuple[float, ...]) -> bool:
        return len(proprio) == len(self.observation.proprio) and all(map(math.isfinite, proprio))

    # Ticks.

    def tick(
        self, state: GateState, proposal: Sequence[float] | None, sense: Sense, now_s: float
    ) -> tuple[GateState, Decision]:
        """The command of this tick. `proposal` is the policy's action, None where there is none to execute."""
        reasons: list[str] = []
        if not now_s - state.time_s >= EARLIEST / self.action.rate_hz:
            state = _latched(state, "ticks came too fast, or the clock went back")
        state, wrong = self.observe(state._replace(time_s=max(now_s, state.time_s)), sense, now_s)
        reasons += wrong
        if proposal is None:
            reasons.append("nothing to execute")
        elif len(proposal) != len(self.action.names) or not all(map(math.isfinite, proposal)):
            state = _latched(state, "an action that is not finite came past the check of its chunk")
        if state.fault is not None:
            reasons.insert(0, f"fault: {state.fault}")
        if reasons:
            state = state._replace(clamped=0)
            return self._move(state, None, sense, reasons)
        assert proposal is not None
        return self._move(state, proposal, sense, reasons)

    def _move(
        self, state: GateState, proposal: Sequence[float] | None, sense: Sense, reasons: list[str]
    ) -> tuple[GateState, Decision]:
        command = [0.0] * len(self.action.names)
        states, places, limited = [], [], False
        absolute = self.action.mode == "absolute"
        since = self._since(state, sense.received_s)
        for number, axis in enumerate(self.axes):
            before = state.axes[number]
            place = self._place(state, number, axis.measured, sense)
            want = 0.0
            if proposal is not None:
                inside = min(max(proposal[axis.index], self.action.low[axis.index]), self.action.high[axis.index])
                if inside != proposal[axis.index]:
                    reasons.append(f"{axis.name} range")
                want = inside * axis.scale - (place if absolute else 0.0)
            room = None
            if axis.measured is not None:
                # It has gone on since it was measured, unless something holds it: whichever leaves less room.
                ahead = place + since[number]
                room = (axis.low - min(place, ahead), axis.high - max(place, ahead))
            after = step(before, want, axis.limit, room)
            states.append(after)
            places.append(place + after.w)
            command[axis.index] = (places[-1] if absolute else after.w) / axis.scale
            if proposal is not None and abs(after.w - want) > CHANGED * axis.limit.w:
                reasons.append(f"{axis.name} {_limit_at_work(before, after, want, axis)}")
                limited = True
        held = list(state.grippers)
        for number, index in enumerate(self.grippers):
            if proposal is not None:
                held[number] = min(max(float(proposal[index]), self.action.low[index]), self.action.high[index])
            command[index] = held[number]
        # What goes past the range of all demonstrations is cut to it, here as in simulation: no sign of danger.
        clamped = state.clamped + 1 if limited else 0
        state = state._replace(
            axes=tuple(states),
            grippers=tuple(held),
            clamped=clamped,
            setpoint=tuple(places) if absolute else None,
            told=(*state.told, (state.time_s, tuple(after.w for after in states)))[-self.told_ticks :],
        )
        if clamped >= self.limits.clamped_ticks:
            state = _latched(state, f"limited in {clamped} ticks in a row, the last: {', '.join(reasons)}")
        return state, Decision(tuple(command), tuple(reasons), held=proposal is None)

    def _place(self, state: GateState, number: int, measured: int | None, sense: Sense) -> float:
        """Where the axis is: measured for deltas, its last set point for absolute commands."""
        if state.setpoint is not None:
            return state.setpoint[number]
        if measured is None:
            return 0.0
        place = sense.proprio[measured] if len(sense.proprio) == len(self.observation.proprio) else math.nan
        return place if math.isfinite(place) else math.inf  # unknown: no room either way, which brakes

    def _since(self, state: GateState, received_s: float) -> Sequence[float]:
        """How far each axis was told to go since proprioception came; nothing where commands say where to be."""
        told = [moves for when_s, moves in state.told if when_s >= received_s]
        if not told or state.setpoint is not None:
            return (0.0,) * len(self.axes)
        return [sum(moves) for moves in zip(*told, strict=True)]

    # People.

    def latch(self, state: GateState, fault: str) -> GateState:
        """A fault from outside: the log cannot be written, the robot's side braked, somebody pressed stop."""
        return _latched(state, fault)

    def at_rest(self, state: GateState) -> bool:
        """Nothing is commanded to move."""
        return all(axis == REST for axis in state.axes)

    def rearm(self, state: GateState, sense: Sense) -> GateState:
        """A person says that it may move again. Raises S2RobotError while it still brakes."""
        if not self.at_rest(state):
            raise S2RobotError("still braking; re-arm once everything stands")
        return self.initial(sense, state.grippers)._replace(time_s=state.time_s, told=state.told)


def _latched(state: GateState, fault: str) -> GateState:
    return state if state.fault is not None else state._replace(fault=fault)


def _limit_at_work(before: AxisState, after: AxisState, want: float, axis: Axis) -> str:
    """Which limit kept `after` from `want`, for people: the tightest that binds."""
    limit = axis.limit
    if abs(want) > limit.w and abs(after.w) >= limit.w * (1 - CHANGED):
        return "velocity"
    if abs(after.b) >= limit.b * (1 - CHANGED):
        return "acceleration"
    free = step(before, want, limit)
    return "position" if free != after else "jerk"
