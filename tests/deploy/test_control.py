"""The loop: ticks, chunks, faults, the log that explains it all, and what happens when the log cannot be written."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory

from s2robot.deploy.brain import Brain, Plan
from s2robot.deploy.bundle import Identity
from s2robot.deploy.control import Loop, Summary, handshake
from s2robot.deploy.deciders import Worker
from s2robot.deploy.dry_runs import key_of, note_dry_run, require_dry_run
from s2robot.deploy.log import ChunkEntry, EventEntry, LogReader, LogWriter, PictureEntry, TickEntry, png
from s2robot.deploy.replay import replay
from s2robot.deploy.robots.interface import RobotInfo, RobotLost
from s2robot.errors import DamagedError, MismatchError, S2RobotError
from tests.deploy.fake_robot import FakeDecider, FakeRobot, TestClock, TestWorker
from tests.deploy.plans import plan
from tests.deploy.tiny_bundle import ACTION, OBSERVATION

IDENTITY = Identity(OBSERVATION, ACTION, "1" * 64, "0" * 64)
ROOT = Path(__file__).parents[2]


def gentle(number: int) -> np.ndarray:
    return np.tile(np.array([0.05, 0.0, 1.0], np.float32), (8, 1))


def loop_of(
    tmp_path: Path,
    robot: FakeRobot,
    chunk: Callable[[int], Any] = gentle,
    how: Plan | None = None,
    delay_s: float = 0.001,
    show: Callable[[Summary, Brain], None] | None = None,
    rehearsals: int = 0,
) -> Loop:
    """In the robot's time: on the wall clock with a thread that decides, otherwise without either."""
    how = how or plan()
    decider = FakeDecider(IDENTITY, how.decisions, chunk)
    log, goal = LogWriter(tmp_path / "run.mcap", how, {}), np.array([1, 0], np.float32)
    clock = robot.clock
    worker = TestWorker(decider, clock, delay_s) if isinstance(clock, TestClock) else Worker(decider, pictures=True)
    return Loop(robot, robot.connect(), worker, how, log, goal, True, show, rehearsals, clock)


def at(tick: int, do: Callable[[], object]) -> Callable[[Summary, Brain], None]:
    """Something that happens once, after so many ticks."""
    return lambda summary, brain: do() if summary.ticks == tick else None


def run(loop: Loop, ticks: int | None = 20, **more: Any) -> Summary:
    summary = loop.run(ticks, **more)
    if loop.log is not None:
        loop.log.close()
    loop.close()
    return summary


def entries(tmp_path: Path, kind: type) -> list[Any]:
    return [entry for entry in LogReader(tmp_path / "run.mcap").entries() if isinstance(entry, kind)]


def test_a_run_sends_one_command_per_tick_and_the_log_explains_each(tmp_path: Path) -> None:
    robot = FakeRobot()
    summary = run(loop_of(tmp_path, robot))
    ticks = entries(tmp_path, TickEntry)
    assert summary.sent == summary.ticks == len(robot.written) == len(ticks)
    assert [entry.step.decision.command for entry in ticks] == [command for _, command in robot.written]
    assert any(entry.step.decision.command[0] > 0.04 for entry in ticks)
    assert robot.written[-1][1][:2] == (0.0, 0.0)  # time was up: it braked first
    found = replay(tmp_path / "run.mcap")
    assert found.exact, found.differences
    assert (found.ticks, found.chunks) == (len(ticks), len(entries(tmp_path, ChunkEntry)))
    spacing = np.diff([when for when, _ in robot.written])
    assert np.median(spacing) == pytest.approx(0.05, abs=0.005)


def test_the_log_says_why_a_run_ended_though_the_robot_stood(tmp_path: Path) -> None:
    run(loop_of(tmp_path, FakeRobot(TestClock()), lambda number: 0.0 * gentle(number)))
    ends = [(event.kind, event.text) for event in entries(tmp_path, EventEntry)]
    assert ends == [("stop", "time is up")]
    assert replay(tmp_path / "run.mcap").exact


def test_ros_tools_read_the_log(tmp_path: Path) -> None:
    run(loop_of(tmp_path, FakeRobot(), rehearsals=4))
    with open(tmp_path / "run.mcap", "rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        summary = reader.get_summary()
        assert summary is not None
        topics = {channel.topic for channel in summary.channels.values()}
        assert topics >= {"/s2robot/plan", "/s2robot/tick", "/s2robot/chunk", "/camera/front/compressed"}
        messages = [m for _, _, _, m in reader.iter_decoded_messages(topics=["/s2robot/tick"])]
        assert messages[0].proprio == [0.0, 0.0, 0.0]
    pictures = entries(tmp_path, PictureEntry)
    assert 0 < len(pictures) <= len(entries(tmp_path, ChunkEntry)) + 1  # of decisions, not of their rehearsals
    picture = pictures[0]
    assert picture.camera == "front"
    assert picture.decode().shape == (32, 32, 3)


def test_a_log_that_was_changed_is_found_out(tmp_path: Path) -> None:
    run(loop_of(tmp_path, FakeRobot(TestClock())))
    data = bytearray((tmp_path / "run.mcap").read_bytes())
    ticks = entries(tmp_path, TickEntry)
    moved = next(e.step.decision.command[0] for e in ticks if e.step.decision.command[0] > 0.01)
    place = data.rindex(np.float64(moved).tobytes())
    data[place : place + 8] = np.float64(moved + 1e-9).tobytes()
    (tmp_path / "changed.mcap").write_bytes(data)
    assert not replay(tmp_path / "changed.mcap").exact


def test_a_dry_run_does_everything_but_send(tmp_path: Path) -> None:
    robot = FakeRobot(TestClock())
    loop = loop_of(tmp_path, robot)
    loop.armed = False
    summary = run(loop)
    assert robot.written == []
    assert summary.ticks >= 20
    assert summary.sent == 0
    assert any(entry.step.decision.command[0] > 0.04 for entry in entries(tmp_path, TickEntry))


def test_chunks_are_stitched_by_ticks_executed(tmp_path: Path) -> None:
    """Each action says which tick it was planned for; with 70 ms of inference none is executed at another."""

    def counting(number: int) -> np.ndarray:
        at = loop._asked.at  # type: ignore[union-attr]
        steps = np.arange(at, at + 8, dtype=np.float32)
        return np.stack([steps * 1e-4, steps * 0, steps * 0], axis=1)

    robot = FakeRobot(TestClock())
    loop = loop_of(tmp_path, robot, counting, plan(age_s=1.0), delay_s=0.07)
    run(loop, 40)
    executed = [entry for entry in entries(tmp_path, TickEntry) if not entry.step.decision.held]
    assert len(executed) == 40 - 2  # the first decision takes two ticks
    for entry in executed:
        assert entry.step.proposal[0] == pytest.approx(entry.step.tick * 1e-4, abs=1e-9)
    assert [entry.step.tick for entry in executed] == list(range(len(executed)))


@pytest.mark.parametrize(("decision_s", "age_s"), [(0.03, 0.034), (0.07, 0.074), (0.048, 0.052)])
def test_a_decision_is_there_just_before_the_tick_that_executes_it(
    tmp_path: Path, decision_s: float, age_s: float
) -> None:
    """What is executed was seen a decision and 4 ms before, whatever part of a period a decision takes."""
    robot = FakeRobot(TestClock())
    summary = run(loop_of(tmp_path, robot, delay_s=decision_s, rehearsals=5), 40)
    assert summary.timings.capture[1:] == pytest.approx([age_s] * (len(summary.timings.capture) - 1), abs=0.002)
    assert len(summary.timings.capture) >= 19
    assert summary.held == (decision_s + 0.004) // 0.05 + summary.ticks - 40  # before the first, and at the end
    assert summary.missed == 0
    assert replay(tmp_path / "run.mcap").exact


def test_a_decider_that_fails_its_rehearsal_is_asked_at_the_ticks(tmp_path: Path) -> None:
    robot = FakeRobot(TestClock())
    summary = run(loop_of(tmp_path, robot, delay_s=3.0, rehearsals=5), 20)
    assert summary.ticks == summary.held == 20


def test_without_overlap_the_robot_holds_while_it_decides(tmp_path: Path) -> None:
    robot = FakeRobot(TestClock())
    loop = loop_of(tmp_path, robot, how=plan(overlap=False, age_s=1.0), delay_s=0.07)
    run(loop, 30)
    held = [entry.step.decision.held for entry in entries(tmp_path, TickEntry)]
    runs = "".join("h" if h else "m" for h in held)
    assert "mmmmhh" in runs
    assert "mmmmm" not in runs  # four actions per decision are executed, never a fifth


@pytest.mark.parametrize("bad", [np.nan, np.inf, "shape", "type"])
def test_chunks_that_are_no_good_hold_and_three_latch(tmp_path: Path, bad: Any) -> None:
    def chunk(number: int) -> Any:
        if bad == "type":
            return [[0.0] * 3] * 8
        if bad == "shape":
            return np.zeros((8, 4), np.float32)
        return np.full((8, 3), bad, np.float32)

    robot = FakeRobot(TestClock())
    summary = run(loop_of(tmp_path, robot, chunk), ticks=200)
    assert "3 bad chunks in a row" in (summary.fault or "")
    assert all(command == (0.0, 0.0, 0.0) for _, command in robot.written)
    assert replay(tmp_path / "run.mcap").exact


def test_a_chunk_from_an_old_observation_is_not_used(tmp_path: Path) -> None:
    robot = FakeRobot(TestClock())
    summary = run(loop_of(tmp_path, robot, delay_s=0.25), ticks=20)
    assert summary.counters["old chunk"] >= 1
    assert all(command == (0.0, 0.0, 0.0) for _, command in robot.written)


def test_a_camera_that_stops_holds_the_robot_and_asks_nothing(tmp_path: Path) -> None:
    robot = FakeRobot(TestClock())
    requests: list[int] = []

    def chunk(number: int) -> np.ndarray:
        requests.append(number)
        return gentle(number)

    loop = loop_of(tmp_path, robot, chunk, plan(age_s=0.17), show=at(10, robot.freeze))
    summary = run(loop, 40)
    assert summary.counters["front is old"] == summary.ticks - 13  # at 50, 100 and 150 ms it is not yet old
    assert 9 <= len(requests) <= 12  # with a decision every tick, and none once the camera is old
    assert robot.written[10][1][0] > 0.04
    assert robot.written[-1][1][0] == 0.0
    assert robot.written[-1][1][2] == 1.0  # the gripper keeps what it holds


@pytest.mark.parametrize("tick", [0, 6])
def test_a_fault_of_the_robots_own_side_is_a_fault_here(tmp_path: Path, tick: int) -> None:
    robot = FakeRobot(TestClock())
    loop = loop_of(tmp_path, robot, show=at(tick, lambda: setattr(robot, "fault", "joint 3 is hot")))
    robot.fault = "" if tick else "joint 3 is hot"
    summary = run(loop, 200)
    assert summary.fault == "the robot's own side: joint 3 is hot"
    assert summary.ticks < tick + 15
    assert replay(tmp_path / "run.mcap").exact


def test_re_arming_goes_on_after_a_fault(tmp_path: Path) -> None:
    robot = FakeRobot(TestClock())
    broken = [np.full((8, 3), np.nan, np.float32)] * 3

    def chunks(number: int) -> np.ndarray:
        return broken[number] if number < 3 else gentle(number)

    loop = loop_of(tmp_path, robot, chunks, show=at(12, lambda: loop.rearm()))
    summary = run(loop, 30, end_at_fault=False)
    assert summary.fault is None
    assert robot.place[0] > 0.01
    assert replay(tmp_path / "run.mcap").exact


def test_an_r_that_came_before_a_fault_does_not_clear_it(tmp_path: Path) -> None:
    robot = FakeRobot(TestClock())
    loop = loop_of(tmp_path, robot, lambda n: gentle(n) * (1.0 if n < 15 else np.nan), show=at(6, lambda: loop.rearm()))
    summary = run(loop, 60, end_at_fault=False)
    assert "3 bad chunks in a row" in (summary.fault or "")
    assert "rearm" not in [event.kind for event in entries(tmp_path, EventEntry)]


def test_an_r_during_a_re_arm_does_not_clear_the_next_fault(tmp_path: Path) -> None:
    robot = FakeRobot(TestClock())

    def person(summary: Summary, brain: Brain) -> None:
        if summary.ticks in (3, 30):
            robot.fault = "joint 3 is hot"
        if summary.ticks == 15:
            loop.rearm()

    loop = loop_of(tmp_path, robot, show=person)
    plain = robot.connect
    robot.connect = lambda: (loop.rearm(), plain())[1]  # type: ignore[method-assign]
    summary = run(loop, 60, end_at_fault=False)
    assert summary.fault == "the robot's own side: joint 3 is hot"
    assert [event.kind for event in entries(tmp_path, EventEntry)] == ["latch", "rearm", "latch", "stop"]


@pytest.mark.parametrize("again", [False, True])
def test_what_comes_in_the_tick_of_a_re_arm_replays_in_its_order(tmp_path: Path, again: bool) -> None:
    """An answer, or a fault that the robot's own side has at once again."""
    robot = FakeRobot(TestClock())

    def person(summary: Summary, brain: Brain) -> None:
        if summary.ticks == 6:
            robot.fault, loop.worker.delay_s = "joint 3 is hot", 100.0  # type: ignore[attr-defined]
        if summary.ticks == 20:
            loop.rearm()

    loop = loop_of(tmp_path, robot, how=plan(age_s=5.0), show=person)
    plain = robot.connect

    def connect() -> RobotInfo:
        loop.worker.delay_s = 0.0  # type: ignore[attr-defined]
        info = plain()
        robot.fault = "joint 3 is hot" if again else ""
        return info

    robot.connect = connect  # type: ignore[method-assign]
    summary = run(loop, 40, end_at_fault=False)
    kinds = [
        type(e).__name__ if isinstance(e, ChunkEntry) else e.kind for e in entries(tmp_path, ChunkEntry | EventEntry)
    ]
    place = kinds.index("rearm")
    assert kinds[place : place + 3][1:] == (["ChunkEntry", "latch"] if again else ["ChunkEntry", "ChunkEntry"])
    assert (summary.fault is None) != again
    found = replay(tmp_path / "run.mcap")
    assert found.exact, found.differences


def test_a_long_run_keeps_the_newest_timings_and_no_index_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2robot.deploy.control.TIMED", 20)
    loop = loop_of(tmp_path, FakeRobot(TestClock()), lambda number: gentle(number) * 0.1)
    summary = run(loop, 200)
    assert summary.ticks >= 200
    times = summary.timings
    for kept in (times.late, times.capture, times.infer, times.gate):
        assert 20 <= len(kept) < 40
    assert loop.log is not None
    assert loop.log._writer._writer._Writer__chunk_indices == []  # type: ignore[attr-defined]
    assert len(entries(tmp_path, TickEntry)) == summary.ticks


def test_what_lost_servers_leave_is_collected_while_nothing_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2robot.deploy.control.GARBAGE", 100)
    left: list[weakref.ref[S2RobotError]] = []
    alive: list[int] = []

    def refused(number: int) -> Any:
        error = S2RobotError("refused")
        error.__cause__ = error  # a cycle, as tracebacks make them
        error.more = [[] for _ in range(50)]  # type: ignore[attr-defined]
        left.append(weakref.ref(error))
        return np.zeros((8, 4), np.float32)

    def count(summary: Summary, brain: Brain) -> None:
        alive.append(sum(error() is not None for error in left))

    loop = loop_of(tmp_path, FakeRobot(TestClock()), refused, plan(bad_chunks=1000), show=count)
    run(loop, 60, until_done=False)
    assert len(left) > 50
    assert max(alive) < 20
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_re_arming_clears_the_robots_own_side_once_it_stands(tmp_path: Path) -> None:
    robot = FakeRobot(TestClock())

    def person(summary: Summary, brain: Any) -> None:
        if summary.ticks in (5, 12):  # in vain the first time
            loop.rearm()
        robot.braking = summary.ticks < 10

    loop = loop_of(tmp_path, robot, show=person)
    robot.fault, robot.braking = "no command came in time", True
    summary = run(loop, 35, end_at_fault=False)
    assert summary.fault is None
    assert robot.place[0] > 0.005
    assert [event.kind for event in entries(tmp_path, EventEntry)] == ["latch", "not re-armed", "rearm", "stop"]
    assert replay(tmp_path / "run.mcap").exact


def test_a_robot_that_goes_ends_the_run(tmp_path: Path) -> None:
    robot = FakeRobot(TestClock())
    loop = loop_of(tmp_path, robot, show=at(4, lambda: setattr(robot, "lost", True)))
    with pytest.raises(RobotLost, match="has gone"):
        loop.run(100)
    loop.close()
    assert [entry.kind for entry in entries(tmp_path, EventEntry)] == ["robot lost"]


def test_without_a_log_nothing_moves(tmp_path: Path) -> None:
    robot = FakeRobot(TestClock())
    loop = loop_of(tmp_path, robot)
    assert loop.log is not None
    plain, calls = loop.log._file.flush, iter(range(1000))

    def full() -> None:
        if next(calls) > 20:
            raise OSError(28, "No space left on device")
        plain()

    loop.log._file.flush = full  # type: ignore[method-assign]
    with pytest.raises(S2RobotError, match=r"nothing moves without a log: disk full"):
        loop.run(200)
    loop.close()
    loop.log.close()
    assert robot.stopped
    ticks = entries(tmp_path, TickEntry)  # what was written before stays readable
    assert len(robot.written) in (len(ticks), len(ticks) - 1)  # the entry comes first, then the command


def test_a_killed_loop_leaves_a_log_of_all_that_it_did(tmp_path: Path) -> None:
    """SIGKILL at a random moment: every command that reached the robot is in the log, and the log replays."""
    script = ROOT / "tests" / "deploy" / "control_child.py"
    for number, count in enumerate((4, 9, 15)):
        folder = tmp_path / str(number)
        folder.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen(
            [sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "running\n"
        lines = [child.stdout.readline() for _ in range(count)]
        time.sleep(0.017 * number)
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read().splitlines()
        sent = [tuple(map(float, line.split())) for line in lines]
        ticks = entries(folder, TickEntry)
        assert len(ticks) >= len(sent) > 3
        assert [entry.step.decision.command for entry in ticks][: len(sent)] == sent
        assert replay(folder / "run.mcap").exact


def test_a_log_is_never_overwritten_and_other_files_are_no_logs(tmp_path: Path) -> None:
    run(loop_of(tmp_path, FakeRobot(TestClock())), 3)
    with pytest.raises(S2RobotError, match="exists already"):
        LogWriter(tmp_path / "run.mcap", plan(), {})
    for name, content in (("empty", b""), ("text", b"hello " * 100), ("torn", b"\x89MCAP0\r\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DamagedError, match=name):
            LogReader(tmp_path / name)


def test_a_picture_before_the_first_tick_has_its_own_time(tmp_path: Path) -> None:
    run(loop_of(tmp_path, FakeRobot(TestClock())), 3)
    tick = entries(tmp_path, TickEntry)[0]
    log = LogWriter(tmp_path / "pictures.mcap", plan(), {})
    picture = png(np.zeros((4, 4, 3), np.uint8))
    for number in range(3):
        log.picture(PictureEntry(tick.now_s - 1.0 + 0.1 * number, "front", picture))
    log.tick(tick)
    log.close()
    found = [e.now_s - tick.now_s for e in LogReader(log.path).entries() if isinstance(e, PictureEntry)]
    assert found == pytest.approx([-1.0, -0.9, -0.8], abs=1e-5)


def test_a_damaged_log_is_read_or_called_damaged(tmp_path: Path) -> None:
    run(loop_of(tmp_path, FakeRobot(TestClock())), 5)
    whole, random_ = (tmp_path / "run.mcap").read_bytes(), random.Random(0)
    path = tmp_path / "damaged.mcap"
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(random_.randint(1, 4)):
            data[random_.randrange(len(data))] = random_.randrange(256)
        path.write_bytes(data[: random_.randint(len(data) // 2, len(data))])
        with contextlib.suppress(S2RobotError):
            for _ in LogReader(path).entries():
                pass


def test_the_handshake_names_the_first_difference() -> None:
    info = RobotInfo("fake", OBSERVATION, ACTION)
    assert handshake(IDENTITY, info) == OBSERVATION
    for other, message in (
        (replace(info, action=replace(ACTION, rate_hz=10.0)), "rate_hz"),
        (replace(info, action=replace(ACTION, units=("0.1 m", "0.05 m", "sign"))), "units"),
        (replace(info, observation=replace(OBSERVATION, proprio=("y_m", "x_m", "grip_m"))), "proprioception"),
        (replace(info, observation=replace(OBSERVATION, cameras=())), "camera front"),
    ):
        with pytest.raises(MismatchError, match=message):
            handshake(IDENTITY, other)


def test_the_first_run_is_dry_and_another_combination_is_a_first_run(tmp_path: Path) -> None:
    key = key_of(IDENTITY, plan(), "fake")
    with pytest.raises(S2RobotError, match="has not been run dry"):
        require_dry_run(key, tmp_path)
    note_dry_run(key, 50, "run.mcap", tmp_path)
    require_dry_run(key, tmp_path)
    for other in (
        key_of(IDENTITY, plan(age_s=0.2), "fake"),
        key_of(replace(IDENTITY, checkpoint_sha256="2"), plan(), "fake"),
    ):
        with pytest.raises(S2RobotError, match="has not been run dry"):
            require_dry_run(other, tmp_path)
