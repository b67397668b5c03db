"""What the bench sums up."""

from __future__ import annotations

import json

from s2robot.deploy.bench.episodes import RealTimeEpisode, quantiles, summarise


def test_quantiles_of_nothing_are_nothing() -> None:
    assert quantiles([]) == {}
    assert quantiles([1.0, 2.0, 3.0]) == {"p50": 2.0, "p95": 2.9, "p99": 2.98, "max": 3.0}


def test_an_episode_in_which_nothing_was_executed_is_summed_up() -> None:
    held = RealTimeEpisode(20000, "0" * 64, False, 120, 120, 0, None, None, (1.0, 2.0), (), (21.0,), (30.0,), {})
    found = summarise([held])
    assert json.loads(json.dumps(found, allow_nan=False))["capture_to_command_ms"] == {}
    assert found["success"] == {"k": 0, "n": 1}
