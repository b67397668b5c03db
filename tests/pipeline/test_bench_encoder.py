"""The encoder benchmark: all contestants run, ratios say who is faster, bad input is one line."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from s2robot.cli.main import main
from s2robot.configs import choice
from s2robot.errors import S2RobotError
from s2robot.pipeline.bench import encoder as module
from s2robot.pipeline.bench.contestants import Contestant, Kind, Models, Setting, bare_call, reference_forward
from s2robot.pipeline.bench.encoder import FASTEST, MODES, BenchConfig, _in_fresh_process, bench_encoder

CPU = torch.device("cpu")
# Stands in for the public package, which is not at hand in tests: its module, function and keywords.
STAND_IN = """
import time
from s2robot.encoders import multiscale_forward

def forward(model, images, img_sizes, max_split_size, num_prefix_token, output_shape, resize_output_to_idx):
    time.sleep(0.4)
    how = {"reference": True, "resize_output_to_idx": resize_output_to_idx}
    return multiscale_forward(model, images, img_sizes, max_split_size, num_prefix_token, output_shape, **how)
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the stand-in, whose every call takes 0.4 s longer."""
    (tmp_path / "s2wrapper").mkdir()
    (tmp_path / "s2wrapper" / "__init__.py").write_text(STAND_IN)
    monkeypatch.delitem(sys.modules, "s2wrapper", raising=False)
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
    assert [row["setting"] for row in rows] == ["cpu float32 eager", "cpu bfloat16 eager", f"cpu {FASTEST}"]
    for row in rows:
        assert row["setting"] in printed
        assert row["ours_over_reference"] > 1
        assert row["ours_img_s"] > row["reference_img_s"]
        latency = row["latency_ms"]["ours"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
        assert latency["p50"] < row["latency_ms"]["reference"]["p50"]
        assert row["gmac"] == pytest.approx(1.42, abs=0.02)
        assert row["share_of_matmul"] > 0.02
        if row["ours_dtype"] == "float32":  # one large bfloat16 product can be slower than many small ones
            assert row["share_of_matmul"] < 1.5
    fastest = rows[-1]
    assert fastest["reference_dtype"] == "float32"
    assert fastest["ours_img_s"] == max(row["ours_img_s"] for row in rows)


def test_contestants_compute_the_same_and_a_fresh_process_says_its_peak(checkout: Path) -> None:
    frames = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    models, plain = Models(choice("encoder", "s2"), CPU, str(checkout)), Setting("float32", "eager")

    def result(kind: Kind) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = models.call(Contestant(kind, plain), frames)(frames)
        return found

    ours, package = result("ours"), result("reference")[:, 1:]
    assert ours.shape == package.shape
    # The second scale alone: the first is shrunk, as published without antialiasing.
    torch.testing.assert_close(ours[:, :, 192:], package[:, :, 192:], atol=1e-4, rtol=0)
    config = BenchConfig(choice("encoder", "s2"), str(checkout), (), 2, 1, 1, 1, "cpu")
    assert 200 < _in_fresh_process(config, Contestant("ours", plain), 224) < 3000


def test_the_bare_backbone_runs_as_many_tiles_as_the_encoder_cuts() -> None:
    seen: list[tuple[int, ...]] = []
    models = Models(choice("encoder", "s2") | {"sizes": [112, 160, 224]}, CPU, None)
    encoder = models._encoder(False, Setting("float32", "eager"))
    encoder.backbone.model.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    bare_call(encoder)(torch.zeros(3, 3, 224, 224, dtype=torch.uint8))
    assert sorted(seen) == [(3 * 4, 3, 80, 80), (3 * 5, 3, 112, 112)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_every_mode_of_a_gpu_computes_the_same() -> None:
    device = torch.device("cuda")
    frames = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, device=device)
    models = Models(choice("encoder", "s2"), device, None)
    with torch.no_grad():
        exact = models.call(Contestant("ours", Setting("float32", "eager")), frames)(frames)
        for mode in MODES:
            found = models.call(Contestant("ours", Setting("bfloat16", mode)), frames)(frames)
            torch.testing.assert_close(found, exact, atol=0.1, rtol=0.1)


def test_a_convolutional_encoder_is_compared_by_its_maps(checkout: Path) -> None:
    frames = torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)
    small = choice("encoder", "resnet_18") | {"sizes": [64, 128], "weights": "random"}
    with torch.no_grad():
        call = Models(small, CPU, str(checkout)).call(Contestant("reference", Setting("float32", "eager")), frames)
        assert call(frames).shape == (1, 1024, 2, 2)


def test_a_reference_that_does_not_import_is_one_line(checkout: Path) -> None:
    for text, message in (("import not_there_at_all", "`pip install not_there_at_all`"), ("", "give a checkout of")):
        sys.modules.pop("s2wrapper", None)
        (checkout / "s2wrapper" / "__init__.py").write_text(text)
        with pytest.raises(S2RobotError, match=message):
            reference_forward(str(checkout))


def test_times_of_contestants_are_not_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    delays = {"ours": 0.001, "bare": 0.02, "matmul": 0.01}

    def call_of(_: Models, contestant: Contestant, frames: torch.Tensor) -> object:
        return lambda images: time.sleep(delays[contestant.kind] * len(images))

    monkeypatch.setattr(Models, "call", call_of)
    monkeypatch.setattr(module, "_in_fresh_process", lambda *_: 1.0)
    rows = bench_encoder(BenchConfig(choice("encoder", "base"), None, (), 4, 4, 4, torch.get_num_threads(), "cpu"))
    assert [row.setting for row in rows] == ["cpu float32 eager", "cpu bfloat16 eager"]
    for row in rows:
        assert row.ours_over_bare > 8
        assert row.latency_ms["ours"]["p50"] < 5 < row.latency_ms["bare"]["p50"]
        assert (row.reference_img_s, row.reference_dtype, row.ours_over_reference) == (None, None, None)
        assert row.matmul_gmac_s == pytest.approx(1024**3 / 1e9 / 0.04, rel=0.5)


def test_the_compiled_mode_compiles_and_says_where_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[dict[str, object]] = []
    frames = torch.zeros(1, 3, 112, 112, dtype=torch.uint8)

    def compile_(model: torch.nn.Module, **options: object) -> torch.nn.Module:
        compiled.append(options)
        return model

    monkeypatch.setattr(torch, "compile", compile_)
    contestant = Contestant("ours", Setting("bfloat16", "compiled"))
    Models(choice("encoder", "base"), CPU, None).call(contestant, frames)
    assert compiled == [{"dynamic": False}]

    class NoCompiler(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> None:
            raise RuntimeError("No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: NoCompiler())
    with pytest.raises(S2RobotError, match=r"does not run here \(No working C\+\+ compiler found\); leave it out"):
        Models(choice("encoder", "base"), CPU, None).call(contestant, frames)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("frames=0", "frames=0, repeats=15, calls=200 and threads=1 are at least 1"),
        ("reference=nowhere", "reference=nowhere holds no s2wrapper/__init__.py; give a checkout"),
        ("encoder=s3", "unknown encoder 's3'"),
        ("encoder=blind", "encoder 'blind' sees nothing"),
        ("modes=[fast]", "modes=['fast']; give eager, and what else you want of compiled, graph"),
        ("device=meta", "device=meta; the benchmark knows cpu and cuda"),
        ("device=gpu", "device='gpu'; allowed: auto, cpu, cuda"),
    ],
)
def test_bad_input_is_one_line(change: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "encoder", change]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_compiled_mode_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_in_fresh_process", lambda *_: 1.0)
    modes = ("eager", "compiled")
    rows = bench_encoder(BenchConfig(choice("encoder", "base"), None, modes, 2, 2, 2, torch.get_num_threads(), "cpu"))
    assert [row.ours_mode for row in rows] == ["eager", "eager", "compiled"]
