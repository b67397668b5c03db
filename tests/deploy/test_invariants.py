"""The judges of the chaos bench: each has to find what is wrong, and nothing where nothing is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from s2robot.deploy.bench import alone
from s2robot.deploy.bench.alone import GATE_FAULTS, WIRE_FAULTS, faults_alone, gate_fault, wire_fault
from s2robot.deploy.bench.invariants import check_journal, check_log
from s2robot.deploy.bench.proxy import Proxy, Weather
from s2robot.deploy.gate import Decision, Gate
from s2robot.deploy.log import LogReader, LogWriter, TickEntry
from tests.deploy.fake_robot import FakeRobot, TestClock
from tests.deploy.plans import PERIOD_S, plan
from tests.deploy.test_control import at, loop_of, run

Journal = list[dict[str, Any]]


def entry(action: tuple[float, ...], time_s: float, kind: str = "command") -> dict[str, Any]:
    finite = bool(np.isfinite(action).all())
    return {"kind": kind, "time_s": time_s, "action": list(action), "finite": finite} | (
        {"accepted": True} if kind == "command" else {}
    )


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, Journal]:
    """The log of a run that met a fault, and what the robot noted."""
    robot = FakeRobot(TestClock())
    run(loop_of(tmp_path, robot, show=at(12, lambda: setattr(robot, "fault", "hot"))), 40)
    return tmp_path / "run.mcap", [entry(action, when_s) for when_s, action in robot.written]


def test_nothing_is_found_where_nothing_is_wrong(kept: tuple[Path, Journal]) -> None:
    path, journal = kept
    for verdict in (check_journal(journal, plan()), check_log(path, journal)):
        assert verdict.violations == []
        assert verdict.commands == len(journal) > 12


def changed(number: int, *values: float) -> Callable[[Journal], None]:
    return lambda journal: journal.__setitem__(number, entry(values, journal[number]["time_s"]))


def silent(journal: Journal) -> None:
    journal[5:] = [{**row, "time_s": row["time_s"] + 0.25} for row in journal[5:]]


def never_stands(journal: Journal) -> None:
    """The robot's own side takes over and brakes, too gently."""
    last = journal[8]
    for tick in range(30):
        speed = last["action"][0] * (1 - tick / 40)
        journal[9 + tick :] = [entry((speed, 0.0, 1.0), last["time_s"] + (tick + 1) * PERIOD_S, "brake")]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed(6, float("nan"), 0.0, 1.0), "not finite"),
        (changed(6, 1.0, 0.0, 1.0), "dx velocity"),
        (changed(6, 0.4, 0.0, 1.0), "dx acceleration"),
        (changed(6, 0.0, 0.0, 1.5), "gripper is 1.5"),
        (silent, "of silence before the command"),
        (never_stands, "still moving"),
    ],
)
def test_each_wrong_of_a_journal_is_found(
    kept: tuple[Path, Journal], spoil: Callable[[Journal], None], message: str
) -> None:
    _, journal = kept
    spoil(journal)
    assert any(message in what for what in check_journal(journal, plan()).violations)


def test_a_command_that_no_log_explains_is_found(kept: tuple[Path, Journal]) -> None:
    path, journal = kept
    journal.insert(4, entry((0.01, 0.02, 1.0), journal[4]["time_s"]))
    assert check_log(path, journal).violations == ["command 4 reached the robot and is not in the log"]


def test_a_log_that_moves_after_a_latch_is_found(kept: tuple[Path, Journal], tmp_path: Path) -> None:
    path, _ = kept
    log = LogReader(path)
    moved = LogWriter(tmp_path / "moved.mcap", log.plan, {})
    ticks = [tick for tick in log.entries() if isinstance(tick, TickEntry)]
    still = ticks[-1]
    decision = still.step.decision._replace(command=(0.01, 0.0, 1.0))
    for tick in [*ticks, replace(still, step=replace(still.step, decision=decision))]:
        moved.tick(tick)
    moved.close()
    found = check_log(tmp_path / "moved.mcap", []).violations
    assert any("after a fault, without being re-armed" in what for what in found)


# Faults on gate and wire alone.


def test_a_fault_of_every_kind_breaks_nothing() -> None:
    count = len(GATE_FAULTS) + len(WIRE_FAULTS)
    done, verdict = faults_alone(plan(), 2 * count, seed=0)
    assert set(done.values()) == {2}
    assert len(done) == count
    assert verdict.violations == []
    assert verdict.commands > 50 * len(GATE_FAULTS)


@pytest.mark.parametrize(
    ("rule", "broken", "kind"),
    [
        ("_place", lambda self, state, number, measured, sense: 0.0, "clock stands"),
        ("_move", lambda self, state, want, sense, why: (state, _as_wished(want, why)), "chunk huge"),
    ],
)
def test_a_gate_without_a_rule_is_found(monkeypatch: pytest.MonkeyPatch, rule: str, broken: Any, kind: str) -> None:
    monkeypatch.setattr(Gate, rule, broken)
    assert any(gate_fault(plan(), kind, np.random.default_rng(seed)).violations for seed in range(20))


def _as_wished(want: Any, why: list[str]) -> Decision:
    return Decision(tuple(want or (0.0, 0.0, 0.0)), tuple(why), want is None)


def test_a_parser_that_raises_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "read_request", lambda frame, spec: {}["missing"])
    verdict = wire_fault(plan().observation, (8, 3), "noise", np.random.default_rng(0))
    assert verdict.violations == ["a request raised KeyError: 'missing'"]


# The bad network.


def test_the_proxy_does_to_messages_what_its_weather_says() -> None:
    def echo(socket: ServerConnection) -> None:
        socket.send("hello")
        for message in socket:
            socket.send(message)

    with serve(echo, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.socket.getsockname()[1]
        with Proxy(f"ws://127.0.0.1:{port}", seed=0).running() as proxy, connect(proxy.url) as client:
            assert client.recv(timeout=10) == "hello"
            client.send("fine")
            assert client.recv(timeout=10) == "fine"
            proxy.weather = Weather(duplicate=1.0)
            client.send("twice")
            assert [client.recv(timeout=10) for _ in range(4)] == ["twice"] * 4  # doubled both ways
            proxy.weather = Weather(truncate=1.0)
            client.send("cut off somewhere")
            cut = client.recv(timeout=10)
            assert len(cut) < len("cut off somewhere")
            assert "cut off somewhere".startswith(str(cut))
            proxy.weather = Weather(drop=1.0)
            client.send("lost")
            with pytest.raises(TimeoutError, match="timed out"):
                client.recv(timeout=0.5)
        server.shutdown()
