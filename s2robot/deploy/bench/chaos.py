"""Things go wrong on purpose, seeded, in real time: nothing not finite, too fast or unexplained may reach the arm.

Every scenario is one episode on the simulated robot with one fault at a random moment; `invariants` judges it by what
the robot's own side noted and by the log.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from s2robot.deploy.bench.alone import faults_alone
from s2robot.deploy.bench.closed_loop import Bench
from s2robot.deploy.bench.invariants import Verdict, check_journal, check_log
from s2robot.deploy.bench.proxy import Proxy
from s2robot.deploy.bench.server_process import ServerProcess, serving
from s2robot.deploy.brain import Plan
from s2robot.deploy.client import RemotePolicy, ServerLost
from s2robot.deploy.control import Loop
from s2robot.deploy.deciders import Decider, LocalDecider, RemoteDecider, Worker
from s2robot.deploy.limits import parse_limits
from s2robot.deploy.log import LogWriter
from s2robot.deploy.robots.sim import SimRobot
from s2robot.deploy.runtime import BundlePolicy
from s2robot.deploy.wire import Request
from s2robot.errors import S2RobotError
from s2robot.progress import progress, say
from s2robot.storage import write_json

EPISODE_S, FAULT_S = 5.0, (0.8, 2.0)  # how long a scenario runs, and when its fault begins
LOST_FOR_S = (0.3, 2.0)


@dataclass
class Scene:
    """What a fault can get at."""

    robot: SimRobot
    server: ServerProcess
    proxy: Proxy
    corrupt: Corrupting
    loop: Loop
    rng: np.random.Generator
    log: Path
    notes: list[str] = field(default_factory=list)

    def later(self, low_high: tuple[float, float] = LOST_FOR_S) -> None:
        """Wait a random time."""
        time.sleep(float(self.rng.uniform(*low_high)))


class Corrupting:
    """A decider whose chunks are spoilt by `spoil` while that is set."""

    def __init__(self, inner: Decider) -> None:
        self.inner = inner
        self.identity, self.decisions = inner.identity, inner.decisions
        self.spoil: Callable[[np.ndarray], Any] | None = None

    def decide(self, request: Request) -> Any:
        """The chunk, spoilt or not."""
        chunk = self.inner.decide(request)
        return chunk if self.spoil is None else self.spoil(np.array(chunk))

    def close(self) -> None:
        """The inner one's."""
        self.inner.close()


# Faults: each begins at a random moment of the episode, in a thread of its own, and may end again.


def _kill(scene: Scene) -> None:
    scene.server.signal(signal.SIGKILL)
    scene.later()
    scene.server.start(wait=False)


def _halt(scene: Scene) -> None:
    scene.server.signal(signal.SIGSTOP)
    scene.later()
    scene.server.signal(signal.SIGCONT)


def _restart(scene: Scene) -> None:
    scene.server.stop()
    scene.server.start(wait=False)


def _weather(**changes: float) -> Callable[[Scene], None]:
    def fault(scene: Scene) -> None:
        scene.proxy.weather = replace(scene.proxy.weather, **changes)

    return fault


def _chunk(spoil: Callable[[np.ndarray, np.random.Generator], Any]) -> Callable[[Scene], None]:
    def fault(scene: Scene) -> None:
        scene.corrupt.spoil = lambda chunk: spoil(chunk, scene.rng)
        scene.later((0.05, 0.6))
        scene.corrupt.spoil = None

    return fault


def _with(value: float) -> Callable[[np.ndarray, np.random.Generator], Any]:
    def spoil(chunk: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        chunk[tuple(rng.integers(chunk.shape))] = value
        return chunk

    return spoil


def _shape(chunk: np.ndarray, rng: np.random.Generator) -> Any:
    return [chunk[:-1], chunk[:, :-1], chunk[None], chunk.astype(np.int64), chunk.tolist(), None][rng.integers(6)]


def _sensor(**faults: Any) -> Callable[[Scene], None]:
    def fault(scene: Scene) -> None:
        scene.robot.set_faults(**faults)

    return fault


def _second_client(scene: Scene) -> None:
    client = RemotePolicy(scene.server.url)
    with contextlib.suppress(ServerLost):
        client.connect()
        scene.notes.append("a second client was let in")
    client.close()


def _another_policy(scene: Scene) -> None:
    """The server is replaced by one of another bundle, while the loop expects the first."""
    scene.server.signal(signal.SIGKILL)
    scene.corrupt.inner.identity = replace(scene.corrupt.identity, checkpoint_sha256="0" * 64)
    scene.server.start(wait=False)


def _full_disk(scene: Scene) -> None:
    """No file of this process may grow any further, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (scene.log.stat().st_size, resource.RLIM_INFINITY))


def _silence(scene: Scene) -> None:
    """The loop's process hangs: nothing is written any more."""
    scene.loop.robot = _Mute(scene.robot)  # type: ignore[assignment]


class _Mute:
    def __init__(self, robot: SimRobot) -> None:
        self._robot = robot

    def __getattr__(self, name: str) -> Any:
        return getattr(self._robot, name)

    def write(self, command: Sequence[float]) -> None:
        """Nothing."""


FAULTS: dict[str, Callable[[Scene], None]] = {
    "server killed and started again": _kill,
    "server stopped and continued": _halt,
    "server restarted": _restart,
    "network late": _weather(delay_s=0.12),
    "network drops": _weather(drop=0.3),
    "network reorders": _weather(reorder=0.4),
    "network duplicates": _weather(duplicate=0.5),
    "network truncates": _weather(truncate=0.3),
    "chunk NaN": _chunk(_with(np.nan)),
    "chunk infinite": _chunk(_with(-np.inf)),
    "chunk huge": _chunk(_with(1e30)),
    "chunk of wrong shape": _chunk(_shape),
    "camera frozen": _sensor(frozen="agentview"),
    "camera stopped": _sensor(stopped="agentview"),
    "sensors late": _sensor(latency_s=0.2, jitter_s=0.1),
    "sensors noisy": _sensor(proprio_noise=0.02, drop_frames=0.4),
    "joint stuck": _sensor(stuck_joint=3),
    "cable cut": _sensor(cut=True),
    "another policy": _another_policy,
    "second client": _second_client,
    "disk full": _full_disk,
    "loop silent": _silence,
}
HEALTHY = {
    "proprio_noise": 0.0, "latency_s": 0.0, "jitter_s": 0.0, "drop_frames": 0.0, "frozen": None, "stopped": None,
    "stuck_joint": None, "cut": False,
}  # fmt: skip


def chaos(bench: Bench, count: int, alone: int, seed: int, threads: int) -> dict[str, Any]:
    """`count` scenarios in real time, every kind in turn, and `alone` on gate and wire. Returns what `chaos.json`
    holds: faults by kind, commands, violations.
    """
    policy = BundlePolicy(bench.bundle, threads=threads)
    robot = bench.sim(policy)
    kinds = [list(FAULTS)[number % len(FAULTS)] for number in range(count)]
    ends: list[dict[str, Any]] = []
    try:
        info = robot.connect()
        limits = parse_limits(bench.robot["limits"], "chaos")
        plan = Plan(policy.identity.observation, info.action, policy.decisions, limits)
        quick, total = faults_alone(plan, alone, seed)
        say(f"{alone} faults on gate and wire alone: {total.commands} commands and frames checked")
        for number, kind in enumerate(progress(kinds, count, "chaos", "fault")):
            rng = np.random.default_rng((seed, number))
            log = bench.out / "chaos" / f"{number:03d}.mcap"
            log.unlink(missing_ok=True)
            verdict, end = _scenario(bench, plan, policy, robot, kind, rng, log, threads)
            ends.append({"kind": kind, "number": number, "end": end, "commands": verdict.commands})
            total.add(Verdict(verdict.commands, [f"{number} ({kind}): {what}" for what in verdict.violations]))
    finally:
        robot.close()
    return {
        "faults": {**Counter(kinds), **quick}, "commands_checked": total.commands, "violations": len(total.violations),
        "violations_listed": total.violations[:50], "scenarios": ends, "seed": seed,
    }  # fmt: skip


def _scenario(
    bench: Bench,
    plan: Plan,
    policy: BundlePolicy,
    robot: SimRobot,
    kind: str,
    rng: np.random.Generator,
    log: Path,
    threads: int,
) -> tuple[Verdict, str]:
    robot.set_faults(**HEALTHY)
    robot.start_episode(int(bench.seeds[int(rng.integers(len(bench.seeds)))]))
    robot.connect()
    robot.journal()
    info = robot.connect()
    with serving(bench.bundle, threads) as server, Proxy(server.url, int(rng.integers(2**31))).running() as proxy:
        remote = RemoteDecider(RemotePolicy(proxy.url), policy.identity, timeout_s=0.5)
        inner: Decider = LocalDecider(policy) if kind.startswith(("chunk", "camera", "sensors", "joint")) else remote
        corrupt = Corrupting(inner)
        writer = LogWriter(log, plan, {"fault": kind})
        loop = Loop(robot, info, Worker(corrupt, pictures=False), plan, writer, robot.goal, armed=True)
        scene = Scene(robot, server, proxy, corrupt, loop, rng, log)
        end = _run(scene, kind)
        with contextlib.suppress(S2RobotError):
            writer.close()
        loop.close()
        remote.close()
    robot.set_faults(**HEALTHY)
    time.sleep(0.5)  # the robot's own side brakes and stands
    journal = robot.journal()
    verdict = check_journal(journal, plan)
    verdict.add(check_log(log, journal))
    verdict.violations += scene.notes
    return verdict, end


def _run(scene: Scene, kind: str) -> str:
    """The episode with its fault; how it ended."""

    def strike() -> None:
        time.sleep(float(scene.rng.uniform(*FAULT_S)))
        with contextlib.suppress(S2RobotError, OSError):
            FAULTS[kind](scene)

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    with _unlimited_afterwards():
        try:
            ticks = round(EPISODE_S * scene.loop.plan.action.rate_hz)
            summary = scene.loop.run(ticks, until_done=False)
            end = f"fault: {summary.fault}" if summary.fault else "time is up"
        except S2RobotError as error:
            end = f"ended: {error}"
    thread.join(10)
    return end


@contextlib.contextmanager
def _unlimited_afterwards() -> Iterator[None]:
    """Takes the limit of a full disk away again."""
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def bench_chaos(bench: Bench, count: int, alone: int, seed: int, threads: int) -> dict[str, Any]:
    """Run and write `chaos.json`."""
    result = chaos(bench, count, alone, seed, threads)
    write_json(bench.out / "chaos.json", result)
    return result


def as_text(result: dict[str, Any]) -> list[str]:
    """What a person wants to know."""
    lines = [f"{scene['number']:3} {scene['kind']:34} {scene['end'][:90]}" for scene in result["scenarios"]]
    lines += [f"VIOLATION {what}" for what in result["violations_listed"]]
    faults, commands = sum(result["faults"].values()), result["commands_checked"]
    return [*lines, f"{faults} faults, {commands} commands checked, {result['violations']} violations"]
