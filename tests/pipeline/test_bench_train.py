"""`bench train`: both sides take the same steps, and the uncached one runs the encoder in each of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from s2robot.cli.main import main
from s2robot.data.episodes import EpisodeStore
from s2robot.data.features import FeatureCache
from s2robot.encoders.blind import BlindEncoder
from s2robot.errors import S2RobotError
from s2robot.pipeline.bench.train import Timing, as_text, bench_train

from .conftest import job


@pytest.mark.parametrize("views", [0, 2])
def test_equal_steps_lose_the_same_with_and_without_the_cache(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, views: int
) -> None:
    result = bench_train(job(demonstrations, cache, views=views), tmp_path, Timing(2, 1, 2, 0))
    assert result.losses_apart < 1e-6
    assert result.encode_frames_s > 0
    assert result.cached_min > result.encode_min > 0
    assert result.uncached_min == pytest.approx(result.steps / result.uncached_steps_s / 60)
    text = "\n".join(as_text(result))
    assert f"minutes to validation loss {result.val_loss:.4f}" in text
    assert "frozen encoder inside every step" in text


def test_what_cannot_be_timed_is_refused(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(S2RobotError, match="encoder 'blind' sees nothing; there is nothing to cache"):
        bench_train(replace(job(demonstrations, cache), encoder=BlindEncoder()), tmp_path, Timing(1, 1, 1, 0))
    with pytest.raises(S2RobotError, match="repeats=0 must be at least 1"):
        Timing(1, 1, 0, 0)
    assert main(["bench", "train"]) == 2
    assert "bench train needs store=...; see `s2robot bench train --help`" in capsys.readouterr().err
    assert main(["bench", "train", "--help"]) == 0
    assert "uncached_steps=1" in capsys.readouterr().out
