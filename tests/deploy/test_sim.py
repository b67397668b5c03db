"""The simulated robot in its own process: its clock, its watchdog, its faults, and a whole control run on it."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from s2robot.cli.main import main
from s2robot.configs import choice, compose
from s2robot.deploy import session
from s2robot.deploy.bundle import read_manifest
from s2robot.deploy.log import EventEntry, LogReader, PictureEntry, TickEntry
from s2robot.deploy.replay import replay
from s2robot.deploy.robots.interface import RobotLost
from s2robot.deploy.robots.recorded import RecordedRobot
from s2robot.deploy.robots.sim import SimRobot
from s2robot.deploy.robots.sim_process import NOTED
from s2robot.deploy.session import goal_of
from s2robot.envs import make_task
from s2robot.envs.realtime import RealTimeTask
from s2robot.envs.task import ACTION_SPEC, PROPRIO_NAMES
from s2robot.errors import S2RobotError
from s2robot.types import CameraSpec, ObservationSpec
from tests.deploy.fake_robot import FakeRobot
from tests.deploy.plans import limits
from tests.deploy.test_control import loop_of, run
from tests.deploy.tiny_bundle import write_bundle

PX = 48
TASK = {**choice("task", "lift"), "frame_px": PX, "cameras": ["agentview"]}
LIMITS = choice("robot", "sim")["limits"]
PATIENT = ["robot.limits.clamped_ticks=1000", "robot.limits.age_s=1.0"]  # on a busy machine much is late
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared() -> Iterator[SimRobot]:
    robot = SimRobot(TASK, LIMITS, seed=3)
    robot.connect()
    yield robot
    robot.close()


@pytest.fixture
def robot(shared: SimRobot) -> SimRobot:
    """At the beginning of an episode, without faults."""
    nothing = {
        "latency_s": 0.0,
        "jitter_s": 0.0,
        "drop_frames": 0.0,
        "proprio_noise": 0.0,
        "frozen": None,
        "stopped": None,
    }
    shared.set_faults(**nothing, stuck_joint=None)
    shared.start_episode(20000)
    shared.connect()
    shared.journal()
    return shared


def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def drive(robot: SimRobot, action: list[float], ticks: int) -> None:
    for _ in range(ticks):
        robot.write(action)
        time.sleep(0.05)


def test_twenty_five_physics_steps_are_one_step_of_the_task() -> None:
    lockstep, real_time = make_task(TASK), RealTimeTask(make_task(TASK))
    lockstep.reset(seed=5)
    assert real_time.reset(5) == lockstep.state_sha256()
    assert real_time.steps_per_tick == 25
    rng = np.random.default_rng(0)
    for _ in range(8):
        action = rng.uniform(-1, 1, 7)
        lockstep.step(action)
        real_time.command(action)
        real_time.advance(25)
        assert real_time.task.state_sha256() == lockstep.state_sha256()
    real_time.stick(2)
    before = real_time.joints()[0]
    for _ in range(10):
        real_time.command([0, 1, 0, 0, 0, 0, 0])
        real_time.advance(25)
    moved = np.abs(real_time.joints()[0] - before)
    assert moved[2] < 0.01 < 0.05 < moved.max()
    lockstep.close()
    real_time.task.close()


def test_it_begins_where_the_task_begins(robot: SimRobot) -> None:
    task = make_task(TASK)
    _, info = task.reset(seed=20001)
    assert robot.start_episode(20001) == info["initial_state_sha256"]
    want = task.frames(["agentview"])["agentview"]
    # Physics goes on: the arm may have sunk by a little, a pixel may differ.
    assert np.abs(robot.read().images["agentview"].astype(int) - want).mean() < 1.0
    task.close()


def test_time_passes_and_streams_come_at_their_rates(robot: SimRobot) -> None:
    before, start_s = robot.read().sense, time.monotonic()
    time.sleep(1.0)
    after, passed_s = robot.read().sense, time.monotonic() - start_s
    sights = [sense.cameras["agentview"] for sense in (before, after)]
    assert sights[1].counter - sights[0].counter == pytest.approx(20 * passed_s, rel=0.25)
    assert sights[1].stamp_s - sights[0].stamp_s == pytest.approx(passed_s, rel=0.25)
    assert sights[1].digest != sights[0].digest  # nothing moves, and yet no sensor gives the same picture twice


def test_it_does_what_it_is_told_and_silence_brakes_and_latches(robot: SimRobot) -> None:
    before = robot.read().sense.proprio[2]
    drive(robot, [0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0], 8)
    until(lambda: robot.read().fault == "no command came in time")
    assert robot.read().sense.proprio[2] - before > 0.02
    robot.write([0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0])
    time.sleep(0.2)
    journal = robot.journal()
    commands = [entry for entry in journal if entry["kind"] == "command"]
    brakes = [entry for entry in journal if entry["kind"] == "brake"]
    assert [entry["accepted"] for entry in commands] == [True] * 8 + [False]
    silence_s = brakes[0]["time_s"] - commands[7]["time_s"]
    assert LIMITS["watchdog_s"] <= silence_s < LIMITS["watchdog_s"] + 0.15  # a tick, and a busy machine
    speeds = [0.5] + [entry["action"][2] for entry in brakes]
    assert speeds[-1] == 0.0
    assert all(b <= a for a, b in itertools.pairwise(speeds))
    assert all(entry["action"][6] == 1.0 for entry in brakes)  # the gripper keeps what it holds
    assert brakes[-1]["rest"]
    robot.connect()
    assert robot.read().fault == ""


def test_told_to_stop_it_stands_and_stays_so(robot: SimRobot) -> None:
    drive(robot, [0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 4)
    robot.stop()
    until(lambda: robot.read().fault == "told to stop")
    drive(robot, [0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 3)
    assert [e["accepted"] for e in robot.journal() if e["kind"] == "command"] == [True] * 4 + [False] * 3


def test_what_is_not_finite_never_reaches_the_arm(robot: SimRobot) -> None:
    robot.write([float("nan")] * 7)
    robot.write([0.0] * 6)
    time.sleep(0.1)
    assert [(e["finite"], e["accepted"]) for e in robot.journal()] == [(False, False), (True, False)]


def test_faults_of_sensors_do_what_they_say(robot: SimRobot) -> None:
    def sights(count: int) -> list[Any]:
        found = []
        for _ in range(count):
            found.append(robot.read().sense.cameras["agentview"])
            time.sleep(0.06)
        return found

    robot.set_faults(frozen="agentview")
    drive(robot, [0.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 3)
    seen = sights(4)
    assert len({s.digest for s in seen[1:]}) == 1
    assert seen[-1].counter > seen[0].counter
    robot.set_faults(frozen=None, stopped="agentview")
    time.sleep(0.1)
    assert len({s.counter for s in sights(4)}) == 1
    robot.set_faults(stopped=None, proprio_noise=0.05)
    values = []
    for _ in range(20):
        values.append(robot.read().sense.proprio[0])
        time.sleep(0.02)
    assert 0.02 < np.std(values) < 0.1


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"gremlins": True}, "unknown fault 'gremlins'; known: cut, "),
        ({"frozen": "agentwiev"}, "unknown camera 'agentwiev'; known: agentview; did you mean 'agentview'"),
        ({"stuck_joint": "elbow"}, "faults: stuck_joint: .* valid integer"),
        ({"stuck_joint": 7}, "stuck_joint is 0 to 6, 7 came"),
        ({"cut": "no"}, "faults: cut: .* valid boolean"),
        ({"drop_frames": 1.5}, "drop_frames is 0 to 1"),
    ],
)
def test_a_fault_that_does_not_exist_is_named(robot: SimRobot, faults: dict[str, Any], message: str) -> None:
    with pytest.raises(S2RobotError, match=message):
        robot.set_faults(**faults)


def test_faults_of_the_configuration_begin_with_the_first_connection() -> None:
    robot = SimRobot(TASK, LIMITS, faults={"stuck_joint": 1, "stopped": "agentview"})
    robot.connect()
    robot.start_episode(20000)
    robot.connect()
    before = robot.read()
    drive(robot, [0.0, 0.0, 0.8, 0.0, 0.0, 0.0, 0.0], 10)
    after = robot.read()
    assert after.sense.cameras["agentview"].counter <= before.sense.cameras["agentview"].counter + 1  # under way
    moved = [abs(after.extra[f"joint_{i}_rad"] - before.extra[f"joint_{i}_rad"]) for i in range(7)]
    assert moved[1] < 0.005 < 0.02 < max(moved)
    robot.close()


def test_a_cable_that_is_cut_from_the_beginning_shows_the_beginning() -> None:
    robot = SimRobot(TASK, LIMITS, faults={"cut": True})
    robot.connect()
    received_s = robot.read().sense.received_s
    robot.start_episode(20001)
    begun = robot.read()
    assert begun.sense.received_s > received_s
    time.sleep(0.3)
    assert robot.read().sense == begun.sense
    robot.close()


def test_the_journal_keeps_the_latest(robot: SimRobot) -> None:
    for _ in range(NOTED + 50):
        robot.write([0.0] * 7)
    assert len(robot.journal()) == NOTED
    assert len(robot.journal()) < 50


def test_a_recorded_run_is_done_at_its_last_tick_and_goes_on_where_it_was(tmp_path: Path) -> None:
    run(loop_of(tmp_path, FakeRobot()))
    robot = RecordedRobot(str(tmp_path / "run.mcap"))
    info = robot.connect()
    assert not robot.read().done
    until(lambda: robot.read().done)
    time.sleep(1.2)
    assert robot.connect() == info
    assert robot.read().done


def test_a_cut_cable_lets_nothing_through_and_the_arm_brakes(robot: SimRobot) -> None:
    drive(robot, [0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 3)
    robot.set_faults(cut=True)
    age_s = robot.read().sense.received_s
    drive(robot, [0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 6)
    assert robot.read().sense.received_s <= age_s + 0.05
    journal = robot.journal()
    robot.set_faults(cut=False)
    assert sum(entry["kind"] == "command" for entry in journal) == 3
    assert journal[-1]["kind"] == "brake"
    assert journal[-1]["rest"]


def test_a_robot_whose_process_dies_is_lost() -> None:
    robot = SimRobot(TASK, LIMITS)
    robot.connect()
    os.kill(robot.pid, signal.SIGKILL)
    time.sleep(0.5)
    with pytest.raises(RobotLost, match="has gone"):
        robot.read()
    with pytest.raises(RobotLost, match="has gone"):
        robot.write([0.0] * 7)
    robot.close()
    robot.close()


def test_a_task_that_does_not_exist_is_named() -> None:
    robot = SimRobot({**TASK, "cameras": ["rearview"]}, LIMITS)
    with pytest.raises(S2RobotError, match="unknown camera 'rearview'"):
        robot.connect()
    robot.close()


# A whole run, as a user starts it.


@pytest.fixture(scope="module")
def panda_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that knows nothing, for the robot that the task describes."""
    observation = ObservationSpec((CameraSpec("agentview", PX, PX),), PROPRIO_NAMES)
    folder = tmp_path_factory.mktemp("panda") / "bundle"
    return write_bundle(folder, observation=observation, action=ACTION_SPEC, task_config=TASK)


def control(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "s2robot.cli.main", "control", *words]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL, timeout=120
    )


def test_the_first_run_is_dry_and_the_second_moves(
    panda_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"bundle={panda_bundle}", "episode=20000", "duration_s=4", *PATIENT]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert main(["control", *words, f"log={tmp_path}/no.mcap", "armed=true"]) == 2
    assert "has not been run dry" in capsys.readouterr().err
    assert not (tmp_path / "no.mcap").exists()
    dry = control(tmp_path, *words, f"log={tmp_path}/dry.mcap")
    assert dry.returncode == 0, dry.stderr
    assert " 0 commands sent" in dry.stdout
    armed = control(tmp_path, *words, f"log={tmp_path}/armed.mcap", "armed=true")
    assert armed.returncode == 0, armed.stderr
    entries = list(LogReader(tmp_path / "armed.mcap").entries())
    ticks = [entry for entry in entries if isinstance(entry, TickEntry)]
    assert len(ticks) >= 50
    assert any(any(tick.step.decision.command[:6]) for tick in ticks)  # how many: a matter of the machine's speed
    assert any(isinstance(entry, PictureEntry) for entry in entries)
    assert ticks[-1].step.decision.command[:6] == (0.0,) * 6
    assert replay(tmp_path / "armed.mcap").exact
    assert main(["control", *words, f"log={tmp_path}/armed.mcap", "armed=true"]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    recorded = ["robot=replay", f"robot.path={tmp_path}/armed.mcap", f"log={tmp_path}/again.mcap"]
    assert main(["control", f"bundle={panda_bundle}", *recorded]) == 0
    again = LogReader(tmp_path / "again.mcap")
    assert again.about["robot"].startswith("record of ")
    assert again.plan.limits == LogReader(tmp_path / "armed.mcap").plan.limits
    seen = [entry.sense.proprio for entry in again.entries() if isinstance(entry, TickEntry)]
    assert len(seen) >= 20
    assert set(seen) <= {tick.sense.proprio for tick in ticks}
    stops = [entry.text for entry in again.entries() if isinstance(entry, EventEntry)]
    assert stops == ["done"]


def test_sigterm_brakes_stands_and_ends(panda_bundle: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}
    log = tmp_path / "run.mcap"
    command = [
        sys.executable,
        "-m",
        "s2robot.cli.main",
        "control",
        f"bundle={panda_bundle}",
        f"log={log}",
        "pictures=false",
    ]
    child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    until(lambda: log.exists() and log.stat().st_size > 20_000, within_s=60)
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 0
    assert child.stdout is not None
    assert "commands sent" in child.stdout.read()
    events = [entry for entry in LogReader(log).entries() if isinstance(entry, EventEntry)]
    assert [(event.kind, event.text) for event in events] == [("stop", "SIGTERM")]


def test_a_dry_run_that_decided_nothing_unlocks_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = FakeRobot()
    robot.freeze()
    monkeypatch.setattr(session, "robot_of", lambda *_: robot)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    config: Any = OmegaConf.to_container(compose("control", [f"bundle={bundle}", f"log={tmp_path}/dry.mcap"]))
    config |= {"robot": {"limits": asdict(limits())}, "goal": {"left": 1}, "duration_s": 2.5}
    summary = session.control(config)
    assert summary.ticks == summary.held >= 50
    assert summary.fault is None
    with pytest.raises(S2RobotError, match="at least 40 ticks that are not held"):
        session.control(config | {"armed": True, "log": str(tmp_path / "armed.mcap")})
    assert robot.written == []


def test_a_goal_is_given_or_the_episodes_own(bundle: Path) -> None:
    manifest = read_manifest(bundle)  # its goals are left and right
    assert goal_of({"goal": None, "episode": 20000}, manifest) is None
    given = goal_of({"goal": {"right": 1}, "episode": 20000}, manifest)
    assert given is not None
    assert given.tolist() == [0.0, 1.0]
    for wrong in ("left", {"left": "x"}, {"left": True}, {"left": float("nan")}):
        with pytest.raises(S2RobotError, match="give a number"):
            goal_of({"goal": wrong, "episode": None}, manifest)
    with pytest.raises(S2RobotError, match=r"has to be told what to do: goal=\{left: 1\}"):
        goal_of({"goal": None, "episode": None}, manifest)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["log=x.mcap"], "give bundle=FOLDER"),
        (["log=x.mcap", "bundle=a", "server=ws://b"], "give bundle=FOLDER"),
        (["log=x.mcap", "bundle=nowhere"], "nowhere is no bundle"),
        (["log=x.mcap", "server=ws://127.0.0.1:9"], "needs identity="),
        (["log=x.mcap", "bundle=BUNDLE", "goal={goal_red: 1}"], "unknown goal 'goal_red'"),
        (["log=x.mcap", "bundle=BUNDLE", "robot.limits=null"], "names no limits"),
        (
            ["log=x.mcap", "bundle=BUNDLE", "server=null", "every=99"],
            "every=99: give a whole number of ticks",
        ),
        (["log=x.mcap", "server=ws://127.0.0.1:9", "identity=BUNDLE"], "no policy server answers"),
        (["log=x.mcap", "bundle=BUNDLE", "armed=no"], "armed=no: give true or false"),
        (["log=x.mcap", "bundle=BUNDLE", "overlap=off"], "overlap=off: give true or false"),
        (["log=x.mcap", "bundle=BUNDLE", "pictures=0"], "pictures=0: give true or false"),
        (["log=x.mcap", "bundle=BUNDLE", "every=abc"], "every=abc: give a whole number of ticks from 1 to 8"),
        (["log=x.mcap", "bundle=BUNDLE", "every=1.5"], "every=1.5: give a whole number of ticks from 1 to 8"),
        (["log=x.mcap", "bundle=BUNDLE", "blend=x"], "blend=x: give a whole number, 0 or more"),
        (["log=x.mcap", "bundle=BUNDLE", "threads=null"], "threads=None: give a whole number, 0 or more"),
        (["log=x.mcap", "bundle=BUNDLE", "episode=-1"], "episode=-1: give a whole number, 0 or more"),
        (["log=x.mcap", "bundle=BUNDLE", "duration_s=5s"], "duration_s=5s: give seconds as a number above 0"),
        (["log=x.mcap", "bundle=BUNDLE", "timeout_s=inf"], "timeout_s=inf: give seconds as a number above 0"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(
    panda_bundle: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    """Before the robot is even started."""
    assert main(["control", *(word.replace("BUNDLE", str(panda_bundle)) for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
