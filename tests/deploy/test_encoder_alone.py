"""An encoder exported without a policy: from Python without torch, and from C++."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2robot.cli.main import main
from s2robot.data.episodes import EpisodeStore, EpisodeWriter
from s2robot.deploy.bundle import ENCODER, MANIFEST, verify_encoder
from s2robot.deploy.check import CHECK
from s2robot.deploy.export.encoder import EncoderExport, export_encoder
from s2robot.deploy.export.parity import TOLERANCES, Tolerance
from s2robot.deploy.runtime import BundleEncoder
from s2robot.encoders import load_encoder
from s2robot.encoders.load import encoder_config
from s2robot.errors import DamagedError, MismatchError, S2RobotError
from s2robot.types import CameraSpec, DatasetSpec, Episode, ObservationSpec
from tests.deploy.test_check import elsewhere
from tests.deploy.tiny_bundle import ACTION

ROOT = Path(__file__).parents[2]
HEIGHT, WIDTH, STEPS = 120, 128, 12
RUNTIME = Path(os.environ.get("ONNXRUNTIME_ROOT", "/usr"))  # laid out as the runtime's release archives: include, lib
HEADERS = [RUNTIME / "include", RUNTIME / "include" / "onnxruntime"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "store"
    observation = ObservationSpec((CameraSpec("front", HEIGHT, WIDTH),), ("x_m",), ())
    spec = DatasetSpec("tiny", observation, ACTION, source="test")
    rng = np.random.default_rng(0)
    writer = EpisodeWriter(folder, spec)
    for seed in range(2):
        frames = rng.integers(0, 256, (STEPS, HEIGHT, WIDTH, 3), dtype=np.uint8)
        proprio, action = np.zeros((STEPS, 1), np.float32), np.zeros((STEPS, 3), np.float32)
        writer.write(
            Episode(
                images={"front": frames}, proprio=proprio, action=action,
                time_s=np.arange(STEPS) / 20.0, goal=np.zeros(0, np.float32), success=True, seed=seed,
            )
        )  # fmt: skip
    return folder


def what(store: Path, out: Path, **changes: Any) -> EncoderExport:
    how = EncoderExport(encoder_config("base"), store, "front", out, states=12, calibration=8)
    return replace(how, **changes)


@pytest.fixture(scope="module")
def exported(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "encoder"
    export_encoder(what(store, out))
    return out


def test_its_tokens_are_those_of_the_encoder(store: Path, exported: Path) -> None:
    frames = EpisodeStore(store).read(EpisodeStore(store).episodes[0]).images["front"]
    encoder = load_encoder("base", device="cpu", dtype="float32")
    want = encoder(torch.from_numpy(frames).permute(0, 3, 1, 2)).tokens.numpy()
    alone = BundleEncoder(exported, "cpu", 1)
    manifest = alone.manifest
    rows, columns = manifest.grid
    assert want.shape[1:] == (rows * columns, manifest.channels)
    assert manifest.camera == CameraSpec("front", HEIGHT, WIDTH)
    assert manifest.parity["states"] == 12
    assert manifest.parity["features"] < 1e-4
    np.testing.assert_allclose(np.stack([alone(frame) for frame in frames]), want, rtol=1e-3, atol=1e-3)


def test_a_computer_that_computes_other_features_refuses_it(exported: Path, tmp_path: Path) -> None:
    strange = elsewhere(exported, tmp_path / "strange", 1e-2)
    with pytest.raises(MismatchError, match=r"strange computes other features on this computer .* allowed 0\.00015"):
        BundleEncoder(strange, "cpu", 1)


def test_what_does_not_fit_is_refused(store: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(S2RobotError, match="exists already"):
        export_encoder(what(store, exported))
    with pytest.raises(S2RobotError, match="wrist"):
        export_encoder(what(store, tmp_path / "out", camera="wrist"))
    with pytest.raises(S2RobotError, match="has no graph"):
        export_encoder(what(store, tmp_path / "out", encoder=encoder_config("blind")))
    with pytest.raises(S2RobotError, match=r"gave uint8 \(96, 96, 3\)"):
        BundleEncoder(exported)(np.zeros((96, 96, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs checkpoint=FOLDER for a policy, or encoder=NAME"),
        (["checkpoint=a", "encoder=base"], "needs checkpoint=FOLDER for a policy, or encoder=NAME"),
        (["encoder=base", "rollouts=20000:20010"], "an encoder alone decides nothing"),
        (["encoder=base", "precision=int4"], "unknown precision 'int4'"),
    ],
)
def test_a_command_that_makes_no_sense_is_one_clear_line(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["export", f"store={store}", f"out={tmp_path / 'out'}", *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_it(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["encoder=base", "camera=front", "states=4", f"store={store}", f"out={out}"]
    assert main(["export", *words]) == 0
    assert f"image uint8 (1, {HEIGHT}, {WIDTH}, 3) -> tokens float32 (1, 49, 192)" in capsys.readouterr().out
    assert verify_encoder(out).camera.name == "front"


def test_an_encoder_that_strays_is_not_written(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOLERANCES, "float32", Tolerance(1e-12, 1.0, 1.0))
    with pytest.raises(MismatchError, match=r" as float32 differs from torch: features .* allowed 1e-12"):
        export_encoder(what(store, tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_damage_is_noticed(exported: Path, tmp_path: Path) -> None:
    for name in (ENCODER, CHECK, MANIFEST):
        copy = shutil.copytree(exported, tmp_path / name)
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(DamagedError, match=name):
            verify_encoder(copy)


@pytest.mark.slow
@pytest.mark.skipif(
    not any((folder / "onnxruntime_cxx_api.h").is_file() for folder in HEADERS) or shutil.which("g++") is None,
    reason="needs g++ and ONNX Runtime's headers: ONNXRUNTIME_ROOT=FOLDER of a release archive",
)
def test_cpp_gets_the_same_tokens(store: Path, exported: Path, tmp_path: Path) -> None:
    program, library = tmp_path / "encode", RUNTIME / "lib"
    includes = [f"-I{folder}" for folder in HEADERS]
    flags = ["-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    build = ["g++", *flags, *includes, str(ROOT / "examples" / "encode.cpp"), f"-L{library}", "-lonnxruntime"]
    subprocess.run([*build, f"-Wl,-rpath,{library}", "-o", str(program)], check=True, timeout=300)
    frames = EpisodeStore(store).read(EpisodeStore(store).episodes[0]).images["front"]
    raw, tokens = tmp_path / "frames.rgb", tmp_path / "tokens.f32"
    raw.write_bytes(frames.tobytes())
    run = [str(program), str(exported / ENCODER), str(raw), str(tokens)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{STEPS} frames, ")
    alone = BundleEncoder(exported, "cpu", 1)
    want = np.stack([alone(frame) for frame in frames])
    found = np.fromfile(tokens, np.float32).reshape(want.shape)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
    raw.write_bytes(frames.tobytes()[:-1])
    torn = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert (torn.returncode, torn.stderr) == (1, "error: frames.rgb holds no whole number of frames\n")
