"""Does it succeed as often in real time as in lockstep? The same initial states, paired, with a margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2robot.deploy.bench.episodes import RealTimeEpisode, Setting, real_time_episodes, summarise
from s2robot.deploy.deciders import Decider
from s2robot.deploy.robots.sim import SimRobot
from s2robot.deploy.runtime import BundlePolicy
from s2robot.errors import MismatchError
from s2robot.pipeline.evaluate import Evaluation, evaluate
from s2robot.pipeline.report.outcomes import Outcome
from s2robot.pipeline.rollout import RolloutPool
from s2robot.pipeline.statistics import contrast, wilson
from s2robot.progress import progress

MARGIN = 0.10


@dataclass(frozen=True)
class Bench:
    """What all settings of a bench share: bundle, robot's configuration, seeds, where things go."""

    bundle: Path
    robot: dict[str, Any]
    seeds: range
    out: Path
    workers: int = 2

    def task(self, policy: BundlePolicy) -> dict[str, Any]:
        """The simulated task of the demonstrations."""
        return {**policy.manifest.task_config, "cameras": list(policy.cameras)}

    def sim(self, policy: BundlePolicy) -> SimRobot:
        """The robot, not connected."""
        settings = {key: value for key, value in self.robot.items() if key not in ("_target_", "task")}
        return SimRobot(self.task(policy), **settings)


def simulated(bench: Bench, policy: BundlePolicy) -> list[Outcome]:
    """The bundle in lockstep: the world waits for every decision."""
    task = bench.task(policy)
    what = Evaluation(task["name"], "lockstep", 0, policy.identity.checkpoint_sha256, task)
    with RolloutPool(task, bench.workers) as pool:
        return evaluate(what, policy, pool, bench.seeds, bench.out / "lockstep")


def real_time(
    bench: Bench, policy: BundlePolicy, decider: Decider, setting: Setting, label: str, log: bool = False
) -> list[RealTimeEpisode]:
    """Every seed on the real-time robot."""
    robot = bench.sim(policy)
    ticks = int(policy.manifest.task_config["horizon"])
    folder = bench.out / label if log else None
    try:
        episodes = real_time_episodes(robot, bench.robot["limits"], decider, list(bench.seeds), ticks, setting, folder)
        return list(progress(episodes, len(bench.seeds), label, "episode"))
    finally:
        robot.close()


def compared(lockstep: Sequence[Outcome], episodes: Sequence[RealTimeEpisode]) -> dict[str, Any]:
    """Real time minus lockstep, paired by initial state. Raises MismatchError where a state is not the same."""
    for outcome, episode in zip(lockstep, episodes, strict=True):
        if (outcome.seed, outcome.initial_state_sha256) != (episode.seed, episode.initial_state_sha256):
            raise MismatchError(f"seed {outcome.seed} begins elsewhere in real time than in lockstep")
    slow = np.array([outcome.success for outcome in lockstep])
    fast = np.array([episode.success for episode in episodes])
    found = contrast(fast[None], slow[None])
    k, n = int(slow.sum()), len(slow)
    return {
        "lockstep": {"k": k, "n": n, "wilson95": list(asdict(wilson(k, n)).values())},
        "wilson95": list(asdict(wilson(int(fast.sum()), n)).values()),
        "diff": found.diff,
        "interval95": [found.interval.low, found.interval.high],
        "margin": MARGIN,
        "not_inferior": found.interval.low > -MARGIN,
    }


def as_text(label: str, found: dict[str, Any]) -> list[str]:
    """Two lines for people."""
    verdict = "not inferior" if found["not_inferior"] else "not shown to be non-inferior"
    low, high = found["interval95"]
    late, capture = found["late_ms"], found["capture_to_command_ms"]
    return [
        f"{label}: {found['success']['k']}/{found['success']['n']} in real time, {found['lockstep']['k']} in lockstep; "
        f"difference {found['diff']:+.2f}, 95 % {low:+.2f} to {high:+.2f}: {verdict} at a margin of {MARGIN:.2f}",
        f"  {found['missed']} of {found['ticks']} deadlines missed, {found['held']} held, {found['faults']} faults; "
        f"frame to command p50/p95/p99 {capture['p50']}/{capture['p95']}/{capture['p99']} ms; command after tick "
        f"{late['p50']}/{late['p95']}/{late['p99']} ms",
    ]


def result(lockstep: Sequence[Outcome], episodes: Sequence[RealTimeEpisode]) -> dict[str, Any]:
    """One entry of `closed_loop.json`."""
    return {**summarise(episodes), **compared(lockstep, episodes)}
