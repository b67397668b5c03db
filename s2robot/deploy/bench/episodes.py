"""Episodes of the real-time simulated robot under the control loop, to be compared with simulated rollouts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2robot.deploy.brain import Plan
from s2robot.deploy.control import Loop, handshake
from s2robot.deploy.deciders import Decider, Worker
from s2robot.deploy.limits import parse_limits
from s2robot.deploy.log import LogWriter
from s2robot.deploy.robots.sim import SimRobot
from s2robot.deploy.wire import Request


@dataclass(frozen=True)
class RealTimeEpisode:
    """One episode: `late_ms` of every tick's command, `capture_ms` from a frame's capture to its chunk's first command,
    `infer_ms` of every decision, `gate_us` of every tick's chunk buffer and gate.
    """

    seed: int
    initial_state_sha256: str
    success: bool
    ticks: int
    held: int
    missed: int
    fault: str | None
    seam: float | None
    late_ms: tuple[float, ...]
    capture_ms: tuple[float, ...]
    infer_ms: tuple[float, ...]
    gate_us: tuple[float, ...]
    counters: dict[str, int]


@dataclass(frozen=True)
class Setting:
    """How the loop runs; `age_s` replaces the limit of the robot's file."""

    overlap: bool = True
    every: int | None = None
    blend: int = 0
    age_s: float | None = None


class Delayed:
    """A decider whose answers come `delay_s` later: a slow network, or a slow policy."""

    def __init__(self, decider: Decider, delay_s: float) -> None:
        self.inner, self.delay_s = decider, delay_s
        self.identity, self.decisions = decider.identity, decider.decisions

    def decide(self, request: Request) -> Any:
        """The same chunk, later."""
        chunk = self.inner.decide(request)
        time.sleep(self.delay_s)
        return chunk

    def close(self) -> None:
        """The inner one's."""
        self.inner.close()


def real_time_episodes(
    robot: SimRobot,
    limits: dict[str, Any],
    decider: Decider,
    seeds: Sequence[int],
    ticks: int,
    setting: Setting,
    log: Path | None = None,
) -> Iterator[RealTimeEpisode]:
    """Run every seed for at most `ticks` ticks. `log`: a folder for one MCAP file per episode."""
    info = robot.connect()
    changes = {} if setting.age_s is None else {"age_s": setting.age_s}
    plan = Plan(
        handshake(decider.identity, info), info.action, decider.decisions, parse_limits({**limits, **changes}, "bench"),
        setting.overlap, setting.every, setting.blend,
    )  # fmt: skip
    for seed in seeds:
        state = robot.start_episode(seed)
        robot.connect()
        writer = None if log is None else LogWriter(log / f"{seed}.mcap", plan, {"seed": seed})
        loop = Loop(robot, info, Worker(decider, pictures=False), plan, writer, robot.goal, armed=True)
        summary = loop.run(ticks, seed=seed)
        if writer is not None:
            writer.close()
        loop.worker.end()
        robot.stop()
        times = summary.timings
        yield RealTimeEpisode(
            seed, state, summary.done, summary.ticks, summary.held, summary.missed, summary.fault,
            float(np.mean(summary.seams)) if summary.seams else None, _ms(times.late), _ms(times.capture),
            _ms(times.infer), tuple(round(1e6 * s, 1) for s in times.gate), summary.counters,
        )  # fmt: skip


def _ms(seconds: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(1e3 * s, 3) for s in seconds)


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest; nothing of nothing, as where no command was ever decided on."""
    if not len(values):
        return {}
    found = np.percentile(values, [50, 95, 99, 100])
    return {name: round(float(value), 2) for name, value in zip(("p50", "p95", "p99", "max"), found, strict=True)}


def summarise(episodes: Sequence[RealTimeEpisode]) -> dict[str, Any]:
    """Over all ticks of all episodes."""
    every = [asdict(episode) for episode in episodes]
    ticks = sum(episode.ticks for episode in episodes)
    return {
        "success": {"k": sum(e.success for e in episodes), "n": len(episodes)},
        "ticks": ticks,
        "missed": sum(e.missed for e in episodes),
        "held": sum(e.held for e in episodes),
        "faults": sum(e.fault is not None for e in episodes),
        "late_ms": quantiles([x for e in every for x in e["late_ms"]]),
        "capture_to_command_ms": quantiles([x for e in every for x in e["capture_ms"]]),
        "gate_us": quantiles([x for e in every for x in e["gate_us"]]),
        "infer_ms": quantiles([x for e in every for x in e["infer_ms"]]),
        "seam": float(np.mean([e.seam for e in episodes if e.seam is not None] or [0.0])),
    }
