"""What must hold of every run, whatever went wrong in it: judged from what reached the robot and what the log says.

Dims: a action.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2robot.deploy.brain import Plan
from s2robot.deploy.limiter import AxisState, ticks_to_rest
from s2robot.deploy.limits import Axis, axes_of
from s2robot.deploy.log import EventEntry, LogReader, TickEntry
from s2robot.deploy.replay import REARM, replay

SLACK = 1e-6  # of a limit
SLACK_S = 0.030  # of the robot's process, which shares two cores with everything else


@dataclass
class Verdict:
    """How many commands were looked at, and what was wrong with them."""

    commands: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, other: Verdict) -> None:
        """Both together."""
        self.commands += other.commands
        self.violations += other.violations


def check_journal(journal: Sequence[dict[str, Any]], plan: Plan) -> Verdict:
    """What the robot's own side noted: every command finite and inside limits, silence answered by braking in time."""
    verdict = Verdict()
    axes, period_s = axes_of(plan.limits, plan.action, plan.observation), 1.0 / plan.action.rate_hz
    moves = [entry for entry in journal if entry["kind"] == "brake" or entry.get("accepted")]
    states = [AxisState()] * len(axes)
    for number, entry in enumerate(moves):
        verdict.commands += 1
        if not entry["finite"]:
            verdict.violations.append(f"command {number} that was carried out is not finite")
            continue
        states, wrong = _follow(states, entry["action"], axes)
        wrong += _out_of_range(entry["action"], plan)
        verdict.violations += [f"command {number} ({entry['kind']}): {what}" for what in wrong]
    for before, after in zip(moves, [*moves[1:], None], strict=True):
        if before["kind"] == "command" and after is not None:
            silence_s = after["time_s"] - before["time_s"]
            if silence_s > plan.limits.watchdog_s + period_s + SLACK_S:
                verdict.violations.append(f"{silence_s:.3f} s of silence before the {after['kind']} that followed")
    verdict.violations += _check_braking(moves, axes, period_s)
    return verdict


def _follow(
    states: list[AxisState], action: Sequence[float], axes: Sequence[Axis]
) -> tuple[list[AxisState], list[str]]:
    after, wrong = [], []
    for state, axis in zip(states, axes, strict=True):
        w = action[axis.index] * axis.scale
        b = w - state.w
        for name, value, limit in (
            ("velocity", w, axis.limit.w),
            ("acceleration", b, axis.limit.b),
            ("jerk", b - state.b, axis.limit.c),
        ):
            if abs(value) > limit * (1 + SLACK):
                wrong.append(f"{axis.name} {name} {abs(value) / limit:.3f} times its limit")
        after.append(AxisState(w, b))
    return after, wrong


def _out_of_range(action: Sequence[float], plan: Plan) -> list[str]:
    spec = plan.action
    rows = zip(spec.names, action, spec.low, spec.high, strict=True)
    return [f"{name} is {value:.4g}" for name, value, low, high in rows if not low - SLACK <= value <= high + SLACK]


def _check_braking(moves: Sequence[dict[str, Any]], axes: Sequence[Axis], period_s: float) -> list[str]:
    """From the first brake after a command it stands within the ticks that the limits allow."""
    wrong = []
    states = [AxisState()] * len(axes)
    braking_since, allowed = None, 0
    for number, entry in enumerate(moves):
        if entry["kind"] == "brake" and braking_since is None:
            braking_since = number
            allowed = max(ticks_to_rest(state, axis.limit) for state, axis in zip(states, axes, strict=True))
        elif entry["kind"] == "command":
            braking_since = None
        states, _ = _follow(states, entry["action"], axes)
        if braking_since is not None and number - braking_since + 1 > allowed and any(state.w for state in states):
            wrong.append(
                f"still moving {number - braking_since + 1} ticks after it began to brake, {allowed} are allowed"
            )
    return wrong


def check_log(path: Path, journal: Sequence[dict[str, Any]]) -> Verdict:
    """Every command that reached the robot is in the log, in order; the log replays; nothing moves once it latched."""
    verdict = Verdict()
    log = LogReader(path)
    entries = list(log.entries())
    sent = [entry.step.decision.command for entry in entries if isinstance(entry, TickEntry) and entry.sent]
    reached = [tuple(entry["action"]) for entry in journal if entry["kind"] == "command" and entry["finite"]]
    verdict.commands += len(sent)
    place = 0
    for number, command in enumerate(reached):
        while place < len(sent) and sent[place] != command:
            place += 1
        if place == len(sent):
            verdict.violations.append(f"command {number} reached the robot and is not in the log")
            break
        place += 1
    again = replay(path)
    verdict.violations += [f"tick entry {tick} replays otherwise: {what}" for tick, what in again.differences[:5]]
    moving_elements = [log.plan.action.names.index(name) for name in log.plan.limits.axes]
    stood = False
    for entry in entries:
        if isinstance(entry, EventEntry) and entry.kind == REARM:
            stood = False
        elif isinstance(entry, TickEntry):
            moving = any(entry.step.decision.command[i] for i in moving_elements)
            if entry.fault and stood and moving:
                verdict.violations.append(f"it moved at tick {entry.step.tick} after a fault, without being re-armed")
            stood = bool(entry.fault) and (stood or not moving)
    return verdict
