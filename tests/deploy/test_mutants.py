"""Each rule of the gate is taken out in turn: the tests of the gate have to notice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GATE, LIMITER, BRAIN, WATCHDOG = "gate.py", "limiter.py", "brain.py", "robots/watchdog.py"
TESTS = {
    GATE: ["test_gate.py"], LIMITER: ["test_gate.py"], BRAIN: ["test_brain.py", "test_control.py"],
    WATCHDOG: ["test_ros2.py"],
}  # fmt: skip
MUTANTS = {
    "finite chunks": (GATE, "if not np.isfinite(chunk).all():", "if False:"),
    "shape of chunks": (GATE, "if chunk.shape != self.chunk:", "if False:"),
    "dtype of chunks": (GATE, "if chunk.dtype not in (np.float32, np.float64):", "if False:"),
    "bad chunks latch": (GATE, "if state.bad_chunks >= self.limits.bad_chunks and", "if False and"),
    "a good chunk resets": (GATE, "return state._replace(bad_chunks=0), None", "return state, None"),
    "finite actions": (GATE, "or not all(map(math.isfinite, proposal)):", "or False:"),
    "age of proprioception": (GATE, "if not 0.0 <= now_s - sense.received_s <= self.limits.age_s:", "if False:"),
    "finite proprioception": (GATE, "if not self._is_known(sense.proprio):", "if False:"),
    "missing camera": (GATE, "wrong.append(f\"{camera} is missing\")", "pass"),
    "age of cameras": (GATE, "min(sight.received_s, watch.advanced_s)", "now_s"),
    "counter of cameras": (GATE, "sight.counter > before.sight.counter and", "True and"),
    "stamp of cameras": (GATE, "and sight.stamp_s > before.sight.stamp_s", "and True"),
    "frozen cameras": (GATE, "elif now_s - watch.moved_s > self.limits.frozen_s:", "elif False:"),
    "motion for frozen cameras": (GATE, "> self.limits.frozen_motion", ">= 0.0"),
    "clock": (GATE, "if not now_s - state.time_s >= EARLIEST / self.action.rate_hz:", "if False:"),
    "clamping latches": (GATE, "if clamped >= self.limits.clamped_ticks:", "if False:"),
    "range": (GATE, "want = inside * axis.scale", "want = proposal[axis.index] * axis.scale"),
    "faults hold": (GATE, "if state.fault is not None:\n            reasons", "if False:\n            reasons"),
    "re-arming waits for rest": (GATE, "if not self.at_rest(state):", "if False:"),
    "grippers are kept": (GATE, "held = list(state.grippers)", "held = [0.0] * len(self.grippers)"),
    "grippers in range": (
        GATE, "held[number] = min(max(", "held[number] = float(proposal[index]) + 0 * min(max(",
    ),
    "position": (GATE, "room = (axis.low - min(place, ahead), axis.high - max(place, ahead))", "room = None"),
    "age of positions": (GATE, "ahead = place + since[number]", "ahead = place"),
    "what is measured of positions": (GATE, "(axis.low - min(place, ahead), axis.high - max(place, ahead))",
                                      "(axis.low - ahead, axis.high - ahead)"),
    "highest counter": (GATE, "max(before.sight.counter, sight.counter)", "sight.counter"),
    "highest stamp": (GATE, "max(before.sight.stamp_s, sight.stamp_s)", "sight.stamp_s"),
    "where the arm was": (GATE, "where = before.proprio if self._is_known(before.proprio) else proprio",
                          "where = before.proprio"),
    "velocity": (LIMITER, "want = min(max(want, -limit.w), limit.w)", "pass"),
    "acceleration": (LIMITER, "lowest, highest = max(b - limit.c, -limit.b), min(b + limit.c, limit.b)",
                     "lowest, highest = b - limit.c, b + limit.c"),
    "jerk": (LIMITER, "lowest, highest = max(b - limit.c, -limit.b), min(b + limit.c, limit.b)",
             "lowest, highest = -limit.b, limit.b"),
    "age of chunks": (BRAIN, "if not 0.0 <= now_s - captured_s <= self.plan.limits.age_s:", "if False:"),
    "plans end with a hold": (BRAIN, "self.buffer.flush()\n        else:", "pass\n        else:"),
    "watchdog": (WATCHDOG, "if not self.fault and now_s - self._last_s < self.timeout_s:", "if not self.fault:"),
    "watchdog latches": (WATCHDOG, "if self.fault or len(action) != self.size", "if len(action) != self.size"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_that_is_missing_is_noticed(name: str, tmp_path: Path) -> None:
    file, rule, instead = MUTANTS[name]
    package = tmp_path / "s2robot"
    package.mkdir()
    for entry in (ROOT / "s2robot").iterdir():
        if entry.name != "deploy":
            (package / entry.name).symlink_to(entry.resolve())
    shutil.copytree(ROOT / "s2robot" / "deploy", package / "deploy")
    source = (package / "deploy" / file).read_text()
    assert source.count(rule) == 1, f"{rule!r} is not in {file} any more"
    (package / "deploy" / file).write_text(source.replace(rule, instead))
    command = [
        str(Path(sys.executable).parent / "pytest"), "-q", "-x", "-p", "no:cacheprovider",
        *(str(ROOT / "tests" / "deploy" / test) for test in TESTS[file]),
    ]  # fmt: skip
    found = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    assert found.returncode == 1, found.stdout[-2000:]
    assert "failed" in found.stdout
