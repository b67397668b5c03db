"""The encoder benchmark: all contestants run, ratios say who is faster, bad input is one line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from s2robot.cli.main import main
from s2robot.configs import choice
from s2robot.pipeline import bench_encoder as module
from s2robot.pipeline.bench_encoder import FASTEST, BenchConfig, Contestant, _in_fresh_process, bench_encoder

# Stands in for the public package, which is not at hand in tests: its module, function and keywords.
STAND_IN = """
import time
from s2robot.encoders import multiscale_forward

def forward(model, images, img_sizes, max_split_size, num_prefix_token):
    time.sleep(0.4)
    return multiscale_forward(model, images, img_sizes, max_split_size, num_prefix_token, reference=True)
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the stand-in, whose every call takes 0.4 s longer."""
    (tmp_path / "s2wrapper").mkdir()
    (tmp_path / "s2wrapper" / "__init__.py").write_text(STAND_IN)
    monkeypatch.delitem(module.sys.modules, "s2wrapper", raising=False)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return tmp_path


def test_every_setting_has_a_row_and_the_slower_package_a_ratio_above_one(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_in_fresh_process", lambda *_: 1.0)
    keys = ["encoder=s2", f"reference={checkout}", "frames=1", "repeats=2", "calls=2", "device=cpu"]
    assert main(["bench", "encoder", *keys, f"out={checkout / 'bench.json'}"]) == 0
    printed = capsys.readouterr().out
    rows = json.loads((checkout / "bench.json").read_text())
    assert [row["setting"] for row in rows] == ["cpu float32 eager", "cpu bfloat16 eager", f"cpu, {FASTEST}"]
    for row in rows:
        assert row["setting"] in printed
        assert row["ours_over_reference"] > 1
        assert row["ours_img_s"] > row["reference_img_s"]
        latency = row["latency_ms"]["ours"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
        assert latency["p50"] < row["latency_ms"]["reference"]["p50"]
        assert row["gmac"] == pytest.approx(1.42, abs=0.02)
        assert row["share_of_matmul"] == pytest.approx(row["ours_img_s"] * row["gmac"] / row["matmul_gmac_s"])
    fastest = rows[-1]
    assert fastest["reference_dtype"] == "float32"
    assert fastest["ours_img_s"] == max(row["ours_img_s"] for row in rows)


def test_contestants_compute_the_same_and_a_fresh_process_says_its_peak(checkout: Path) -> None:
    config = BenchConfig(choice("encoder", "s2"), str(checkout), 2, 1, 1, 1, "cpu")
    frames = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        ours, package = (
            Contestant(kind, "float32", "eager").build(config, frames)(frames) for kind in ("ours", "reference")
        )
        bare = Contestant("bare", "float32", "eager").build(config, frames)(frames)
    torch.testing.assert_close(ours[:, :, 192:], package[:, 1:, 192:], atol=1e-4, rtol=0)
    assert ours.shape == package[:, 1:].shape
    assert bare.shape == (10, 50, 192)
    assert 200 < _in_fresh_process(config, Contestant("ours", "float32", "eager"), 224) < 3000


def test_times_of_contestants_are_not_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    delays = {"ours": 0.001, "bare": 0.02}

    def build(self: Contestant, *_: object) -> module.Call:
        def call(images: torch.Tensor) -> torch.Tensor:
            time.sleep(delays[self.kind] * len(images))
            return images

        return call

    monkeypatch.setattr(Contestant, "build", build)
    monkeypatch.setattr(module, "_in_fresh_process", lambda *_: 1.0)
    for row in bench_encoder(BenchConfig(choice("encoder", "base"), None, 4, 4, 4, torch.get_num_threads(), "cpu")):
        assert row.ours_over_bare > 8
        assert row.latency_ms["ours"]["p50"] < 5 < row.latency_ms["bare"]["p50"]
        assert row.reference_img_s is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("frames=0", "frames=0, repeats=15, calls=200 and threads=1 are at least 1"),
        ("reference=nowhere", "reference=nowhere holds no s2wrapper/__init__.py; give a checkout"),
        ("encoder=s3", "s3"),
        ("encoder=blind", "encoder 'blind' sees nothing"),
        ("device=gpu", "device='gpu'; allowed: auto, cpu, cuda"),
    ],
)
def test_bad_input_is_one_line(change: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "encoder", change]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_compiled_models_are_timed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SETTINGS, "cpu", (("float32", "eager"), ("bfloat16", "compiled")))
    monkeypatch.setattr(module, "_in_fresh_process", lambda *_: 1.0)
    rows = bench_encoder(BenchConfig(choice("encoder", "base"), None, 2, 2, 2, torch.get_num_threads(), "cpu"))
    assert [row.setting for row in rows][:2] == ["cpu float32 eager", "cpu bfloat16 compiled"]
