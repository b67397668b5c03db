"""A control run from its configuration: who decides, which robot, what they agree on, and what a person sees of it."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from s2robot import __version__
from s2robot.deploy.brain import Brain, Plan
from s2robot.deploy.bundle import MANIFEST, Manifest, read_manifest
from s2robot.deploy.client import RemotePolicy
from s2robot.deploy.control import Loop, Summary, handshake
from s2robot.deploy.deciders import Decider, LocalDecider, RemoteDecider, Worker
from s2robot.deploy.dry_runs import LEAST_TICKS, key_of, note_dry_run, require_dry_run
from s2robot.deploy.limits import Limits, parse_limits
from s2robot.deploy.log import LogReader, LogWriter
from s2robot.deploy.robots.interface import Robot
from s2robot.deploy.robots.sim import SimRobot
from s2robot.deploy.runtime import BundlePolicy
from s2robot.deploy.token import read_token
from s2robot.errors import S2RobotError, unknown_name
from s2robot.progress import say
from s2robot.targets import instantiate

TABLE_EVERY_S, LINE_EVERY_S = 0.5, 5.0
FLAGS, SECONDS = ("armed", "overlap", "pictures"), ("timeout_s", "duration_s")
LEAST = {"threads": 0, "blend": 0, "episode": 0}  # of the settings that are whole numbers
OPTIONAL = ("duration_s", "episode")  # may be null


def check_settings(config: Mapping[str, Any]) -> None:
    """Raises S2RobotError naming the first setting that is of the wrong kind: `armed=no` comes as a text, which Python
    takes for true.
    """
    for name in FLAGS:
        if not isinstance(config[name], bool):
            raise S2RobotError(f"{name}={config[name]}: give true or false")
    given = {name: config[name] for name in (*LEAST, *SECONDS) if not (name in OPTIONAL and config[name] is None)}
    for name, value in given.items():
        if name in LEAST and not (type(value) is int and value >= LEAST[name]):
            raise S2RobotError(f"{name}={value}: give a whole number, {LEAST[name]} or more")
        if name in SECONDS and not (_is_number(value) and value > 0):
            raise S2RobotError(f"{name}={value}: give seconds as a number above 0")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def decider_of(config: Mapping[str, Any]) -> tuple[Decider, Manifest]:
    """Who decides, and the manifest of what they decide with. Raises S2RobotError unless it is one of the two."""
    if (config["bundle"] is None) == (config["server"] is None):
        raise S2RobotError("give bundle=FOLDER to decide in this process, or server=ws://HOST:PORT to ask a server")
    if config["bundle"] is not None:
        policy = BundlePolicy(Path(config["bundle"]), threads=config["threads"])
        return LocalDecider(policy), policy.manifest
    if config["identity"] is None:
        raise S2RobotError("server= needs identity=: the bundle (or its manifest.json) that the server has to serve")
    path = Path(config["identity"])
    manifest = read_manifest(path.parent if path.name == MANIFEST else path)
    client = RemotePolicy(str(config["server"]), read_token(config["token_file"]))
    return RemoteDecider(client, manifest.identity, config["timeout_s"]), manifest


def robot_of(config: Mapping[str, Any], manifest: Manifest) -> Robot:
    """The robot of a configuration; a simulated one is built for the bundle's task."""
    settings = dict(config["robot"])
    if "task" in settings and settings["task"] is None:
        if not manifest.task_config:
            raise S2RobotError("the bundle's demonstrations are a real robot's; give robot.task= a task to simulate")
        cameras = [camera.name for camera in manifest.identity.observation.cameras]
        settings["task"] = {**manifest.task_config, "cameras": cameras or manifest.task_config["cameras"]}
    robot: Robot = instantiate(settings)
    return robot


def limits_of(settings: Mapping[str, Any]) -> Limits:
    """Of a robot's configuration; those of a recorded run are in its log. Raises S2RobotError where there are none."""
    given = settings.get("limits")
    if given is None and "path" in settings:
        return LogReader(Path(settings["path"])).plan.limits
    return parse_limits(given, "robot")


def goal_of(config: Mapping[str, Any], manifest: Manifest) -> np.ndarray | None:
    """The goal vector; unnamed elements are 0. None leaves it to a simulated episode, whose task names one.

    Raises S2RobotError where the policy needs one and nobody names it.
    """
    names, given = manifest.identity.observation.goal, config["goal"] or {}
    if not given and config["episode"] is not None:
        return None
    if names and not given:
        raise S2RobotError(
            f"the policy has to be told what to do: goal={{{names[0]}: 1}}; its goals: {', '.join(names)}"
        )
    if not isinstance(given, Mapping):
        raise S2RobotError(f"goal={given}: give a number per goal, as in goal={{left: 1}}")
    for name, value in given.items():
        if name not in names:
            raise unknown_name("goal", name, names)
        if not _is_number(value):
            raise S2RobotError(f"goal={{{name}: {value}}}: give a number")
    return np.array([given.get(name, 0.0) for name in names], np.float32)


def control(config: Mapping[str, Any]) -> Summary:
    """One run, as `configs/control.yaml` says. Raises S2RobotError where something does not fit: nothing has moved."""
    check_settings(config)
    limits = limits_of(config["robot"])
    decider, manifest = decider_of(config)
    goal, identity, how = goal_of(config, manifest), manifest.identity, decider.decisions
    overlap, every, blend = config["overlap"], config["every"], config["blend"]
    plan = Plan(identity.observation, identity.action, how, limits, overlap, every, blend)
    plan.gate()  # nothing is reached for that could not be moved safely
    path, armed = Path(config["log"]), config["armed"]
    key = key_of(identity, plan, config["robot"])
    if armed:
        require_dry_run(key)
    if path.exists():
        raise S2RobotError(f"log {path} exists already; give another log=, nothing is overwritten")
    with contextlib.ExitStack() as closing:
        robot = robot_of(config, manifest)
        closing.callback(robot.close)
        info = robot.connect()
        handshake(identity, info)
        if config["episode"] is not None:
            of_episode = _start_episode(robot, config["episode"])
            goal = of_episode if goal is None else goal
        assert goal is not None
        about = {"s2robot": __version__, "robot": info.name, "armed": armed, "identity": asdict(identity)}
        log = LogWriter(path, plan, about)
        loop = Loop(robot, info, Worker(decider, config["pictures"]), plan, log, goal, armed, Table(armed))
        closing.callback(loop.close)
        ticks = None if config["duration_s"] is None else round(config["duration_s"] * info.action.rate_hz)
        with _signals(loop), _keyboard(loop):
            summary = loop.run(ticks, end_at_fault=not sys.stdin.isatty())
        log.close()
        if armed:
            robot.stop()
        elif summary.fault is None and summary.ticks - summary.held >= LEAST_TICKS:
            note_dry_run(key, summary.ticks, str(path))
        return summary


def _start_episode(robot: Robot, seed: int) -> np.ndarray:
    """Its goal."""
    if not isinstance(robot, SimRobot):
        raise S2RobotError("episode= places the objects of a simulated robot; this one's are placed by hand")
    robot.start_episode(seed)
    return robot.goal


class Table:
    """The live table on a terminal, a line every few seconds elsewhere."""

    def __init__(self, armed: bool) -> None:
        self.armed = armed
        self._start_s = self._last_s = time.monotonic()
        self._lines = 0

    def __call__(self, summary: Summary, brain: Brain) -> None:
        """Called at every tick; shows only now and then."""
        now_s = time.monotonic()
        live = sys.stderr.isatty()
        if now_s - self._last_s < (TABLE_EVERY_S if live else LINE_EVERY_S):
            return
        self._last_s = now_s
        lines = status_lines(summary, brain, now_s - self._start_s, self.armed)
        if not live:
            say("; ".join(lines))
            return
        back = f"\x1b[{self._lines}A" if self._lines else ""
        self._lines = len(lines)
        sys.stderr.write(back + "".join(f"\x1b[2K{line}\n" for line in lines))
        sys.stderr.flush()


def status_lines(summary: Summary, brain: Brain, elapsed_s: float, armed: bool) -> list[str]:
    """What a person needs to see: rate, misses, ages, what the gate did, and whether it still runs."""
    times = summary.timings
    late_ms = 1e3 * np.percentile(times.late, 99) if times.late else 0.0
    age_ms = 1e3 * np.percentile(times.capture[-100:], 95) if times.capture else 0.0
    infer_ms = 1e3 * np.percentile(times.infer[-100:], 95) if times.infer else 0.0
    counted = ", ".join(f"{name} {count}" for name, count in brain.counters.most_common(6)) or "nothing"
    state = f"FAULT: {brain.fault}" if brain.fault else "armed" if armed else "dry run: nothing is sent"
    return [
        f"{elapsed_s:6.1f} s  {state}",
        f"ticks {summary.ticks} ({summary.ticks / max(elapsed_s, 1e-9):.1f}/s), missed {summary.missed}, "
        f"held {summary.held}",
        f"late p99 {late_ms:.1f} ms, frame to command p95 {age_ms:.0f} ms, inference p95 {infer_ms:.0f} ms",
        f"gate: {counted}",
    ]


@contextlib.contextmanager
def _signals(loop: Loop) -> Iterator[None]:
    """Ctrl-C and SIGTERM brake and stand; a second Ctrl-C leaves at once, and the robot's own side brakes."""

    def stop(number: int, frame: object) -> None:
        if number == signal.SIGINT and loop.stopping:
            raise KeyboardInterrupt
        loop.stop("Ctrl-C" if number == signal.SIGINT else "SIGTERM")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _keyboard(loop: Loop) -> Iterator[None]:
    """On a terminal, a line with `r` re-arms after a fault."""
    if sys.stdin.isatty():
        say("after a fault: r and Enter re-arms, Ctrl-C ends")

        def listen() -> None:
            for line in sys.stdin:
                if line.strip() == "r":
                    loop.rearm()

        threading.Thread(target=listen, daemon=True).start()
    yield
