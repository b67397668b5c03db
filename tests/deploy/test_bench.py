"""What the bench sums up."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2robot.deploy.bench import delay, latency
from s2robot.deploy.bench.closed_loop import Bench
from s2robot.deploy.bench.episodes import RealTimeEpisode, quantiles, summarise
from tests.deploy.test_server import seen
from tests.deploy.tiny_bundle import write_bundle


def test_quantiles_of_nothing_are_nothing() -> None:
    assert quantiles([]) == {}
    assert quantiles([1.0, 2.0, 3.0]) == {"p50": 2.0, "p95": 2.9, "p99": 2.98, "max": 3.0}


def test_an_episode_in_which_nothing_was_executed_is_summed_up() -> None:
    held = RealTimeEpisode(20000, "0" * 64, False, 120, 120, 0, None, None, (1.0, 2.0), (), (21.0,), (30.0,), {})
    found = summarise([held])
    assert json.loads(json.dumps(found, allow_nan=False))["capture_to_command_ms"] == {}
    assert found["success"] == {"k": 0, "n": 1}


def test_rows_of_another_bundle_seeds_or_limits_are_measured_anew(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def real_time(bench: Bench, policy: Any, decider: Any, setting: Any, label: str) -> list[RealTimeEpisode]:
        measured.append(label)
        return [RealTimeEpisode(20000, "0" * 64, True, 9, 0, 0, None, None, (1.0,), (), (), (), {})]

    monkeypatch.setattr(delay, "real_time", real_time)
    bench = Bench(bundle, {"limits": {"age_s": 0.15}}, range(20000, 20001), tmp_path)
    first = delay.bench_delay(bench, threads=1)
    assert len(measured) == len(first) == 15
    assert delay.bench_delay(bench, threads=1) == first
    assert len(measured) == 15
    others = [
        replace(bench, seeds=range(20000, 20002)),
        replace(bench, robot={"limits": {"age_s": 0.2}}),
        replace(bench, bundle=write_bundle(tmp_path / "other", checkpoint="2" * 64)),
    ]
    for number, other in enumerate(others, 2):
        assert len(delay.bench_delay(other, threads=1)) == 15
        assert len(measured) == 15 * number
    assert delay.bench_delay(bench, threads=1) == first  # still in the file
    assert len(measured) == 15 * 4


def test_two_bundles_of_one_precision_are_both_timed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = shutil.copytree(bundle, tmp_path / "twin")

    class FakeAgent:
        class unnormalise:
            scale = np.ones(3)

    manifest = {"recipe": {"validation_fraction": 0.1}}
    monkeypatch.setattr(latency, "open_checkpoint", lambda path: (path, manifest))
    monkeypatch.setattr(latency, "_agent", lambda *args: FakeAgent)
    monkeypatch.setattr(latency, "_torch_decider", lambda agent: lambda observation: np.zeros((8, 3), np.float32))
    monkeypatch.setattr(latency, "EpisodeStore", lambda path: None)
    monkeypatch.setattr(latency, "recorded_states", lambda *args, **more: [seen()] * 3)
    rows = latency.bench_latency(tmp_path, [bundle, twin], tmp_path, 3, threads=1)
    ours = [row.runtime for row in rows if row.runtime.startswith("onnxruntime")]
    assert ours == [f"onnxruntime float32 ({path})" for path in (bundle, twin)]
    assert len({len(line) for line in latency.as_text(rows)}) == 1  # a table, however long the paths
