"""A table of mistakes: each is one clear line and exit status 2, and nothing is lost."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from s2robot.cli.main import USER_MISTAKE, main
from s2robot.configs import choice
from s2robot.data.episodes import EpisodeStore, EpisodeWriter
from s2robot.encoders import load_encoder
from s2robot.errors import S2RobotError
from s2robot.pipeline.checkpoint import save_checkpoint
from s2robot.pipeline.experiment import Experiment
from s2robot.types import ActionSpec, CameraSpec, DatasetSpec, Episode, ObservationSpec


def make_spec(px: int) -> DatasetSpec:
    action = ActionSpec(("dx",), ("m",), (-1.0,), (1.0,), "base", "delta", "none", "", 20.0)
    return DatasetSpec("lift", ObservationSpec((CameraSpec("agentview", px, px),), ("x_m",)), action)


def make_episode(px: int, seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        images={"agentview": rng.integers(0, 256, (5, px, px, 3), np.uint8)},
        proprio=rng.normal(size=(5, 1)).astype(np.float32),
        action=rng.uniform(-1, 1, (5, 1)).astype(np.float32),
        time_s=np.arange(5) / 20,
        goal=np.zeros(0, np.float32),
        success=True,
        seed=seed,
    )


def make_store(folder: Path, px: int = 64, episodes: int = 2) -> Path:
    writer = EpisodeWriter(folder, make_spec(px))
    for seed in range(episodes):
        writer.write(make_episode(px, seed))
    return folder


def small_frames(tmp: Path) -> list[str]:
    return ["encode", f"store={make_store(tmp / 's', 64)}", "encoder=s2"]


def sizes_that_do_not_divide(tmp: Path) -> list[str]:
    return ["encode", f"store={make_store(tmp / 's')}", "encoder=s2", "encoder.sizes=[112,200]"]


def unknown_camera(tmp: Path) -> list[str]:
    return ["encode", f"store={make_store(tmp / 's')}", "encoder=base", "cameras=[agentvew]"]


def empty_store(tmp: Path) -> list[str]:
    return ["encode", f"store={make_store(tmp / 's', episodes=0)}"]


def no_store(tmp: Path) -> list[str]:
    return ["train", f"store={tmp / 'nowhere'}", f"out={tmp / 'run'}"]


def damaged_episode(tmp: Path) -> list[str]:
    store = make_store(tmp / "s", 224)
    chunk = next((store / "episodes").glob("*/images/agentview/c/0/0/0/0"))
    raw = bytearray(chunk.read_bytes())
    raw[len(raw) // 2] ^= 4
    chunk.write_bytes(bytes(raw))
    return ["encode", f"store={store}", "encoder=base", f"cache={tmp / 'cache'}"]


def checkpoint_of_another_encoder(tmp: Path) -> list[str]:
    encoder = load_encoder("random", device="cpu")
    manifest = {
        "kind": "policy",
        "recipe": {"seed": 0},
        "spec": make_spec(224).to_json(),
        "encoder": {
            "config": {"_target_": "s2robot.encoders.blind.BlindEncoder"},
            "spec": encoder.spec(),
        },
    }
    manifest["encoder"]["spec"].pop("dtype")  # type: ignore[index]
    save_checkpoint(tmp / "run" / "checkpoints", 1, {"policy": {"w": torch.zeros(1)}}, manifest)
    return ["evaluate", f"checkpoint={tmp / 'run'}", "seeds=20000:20001", f"out={tmp / 'out'}"]


def damaged_checkpoint(tmp: Path) -> list[str]:
    folder = tmp / "run" / "checkpoints"
    save_checkpoint(folder, 1, {"policy": {"w": torch.zeros(64)}}, {"kind": "policy"})
    (folder / "step-00000001" / "policy.safetensors").write_bytes(b"torn")
    return ["evaluate", f"checkpoint={tmp / 'run'}", "seeds=20000:20001", f"out={tmp / 'out'}"]


def seeds_that_are_no_range(tmp: Path) -> list[str]:
    return ["evaluate", f"checkpoint={tmp}", "seeds=100", f"out={tmp / 'out'}"]


def one_episode(tmp: Path) -> list[str]:
    return ["train", f"store={make_store(tmp / 's', 112, episodes=1)}", "encoder=base", f"out={tmp / 'run'}"]


def a_recipe_in_words(tmp: Path) -> list[str]:
    store = make_store(tmp / "s", 112)
    return ["train", f"store={store}", "encoder=blind", f"out={tmp / 'run'}", "recipe.epochs=ten"]


def nothing_to_execute(tmp: Path) -> list[str]:
    store = make_store(tmp / "s", 112)
    return ["train", f"store={store}", "encoder=blind", f"out={tmp / 'run'}", "policy.execute=0"]


def fewer_views_than_none(tmp: Path) -> list[str]:
    return ["encode", f"store={make_store(tmp / 's', 112)}", "encoder=base", "views=-1", f"cache={tmp / 'cache'}"]


def fewer_workers_than_none(tmp: Path) -> list[str]:
    return ["collect", "task=lift", f"store={tmp / 's'}", "workers=-1"]


def a_full_store_of_something_else(tmp: Path) -> list[str]:
    return ["collect", "task=lift", f"store={make_store(tmp / 's', 64)}", "episodes=2"]


def unknown_task(tmp: Path) -> list[str]:
    return ["collect", "task=lfit", f"store={tmp / 's'}"]


def test_seeds_in_an_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "experiment.seeds=100:150", f"out={tmp_path}"]) == USER_MISTAKE
    assert "leave those set apart for tests, 20000:30000, and those for choosing" in capsys.readouterr().err
    assert main(["compare", "experiment.seeds=10050:20050", f"out={tmp_path}"]) == USER_MISTAKE
    assert Experiment.from_config(choice("experiment", "demo", {"seeds": "10000:10050"})).seeds == "10000:10050"


TABLE = {
    small_frames: "camera agentview of",
    sizes_that_do_not_divide: "200",
    unknown_camera: "did you mean 'agentview'",
    empty_store: "holds no episodes; fill it with `s2robot collect`",
    no_store: "no episode store at",
    damaged_episode: "fails its checksum; see `s2robot data verify",
    checkpoint_of_another_encoder: "was trained on encoder",
    damaged_checkpoint: "holds no intact checkpoint",
    seeds_that_are_no_range: "half-open range of seeds as A:B",
    unknown_task: "did you mean 'lift'",
    one_episode: "none is left to train on",
    a_recipe_in_words: "recipe: Value 'ten'",
    nothing_to_execute: "execute=0",
    fewer_views_than_none: "views=-1; give 0 for plain frames",
    fewer_workers_than_none: "workers=-1; give a number of processes",
    a_full_store_of_something_else: "demonstrates differs at",
}


@pytest.mark.parametrize("mistake", TABLE, ids=lambda f: f.__name__)
def test_a_mistake_is_one_clear_line_and_status_2(mistake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = mistake(tmp_path)
    capsys.readouterr()
    assert main(command) == USER_MISTAKE
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert TABLE[mistake] in errors[0]
    assert "Traceback" not in errors[0]


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 3, 224, 224), torch.zeros(1, 224, 224, 3, dtype=torch.uint8), torch.zeros(3, 224, 224)],
    ids=["float", "channels last", "no batch"],
)
def test_images_of_a_wrong_dtype_or_shape_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(S2RobotError, match=r"expected RGB frames as uint8 \(b, 3, h, w\)"):
        load_encoder("s2", device="cpu")(images)


def test_a_write_that_the_kernel_refuses_is_one_line_and_what_was_stored_stays(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", 64)
    before = EpisodeStore(store).dataset_fingerprint()
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "from test_bad_input import make_episode, make_spec; from s2robot.data.episodes import EpisodeWriter;"
        "from s2robot.cli import main as m;\n"
        "try: EpisodeWriter(sys.argv[2], make_spec(64)).write(make_episode(64, 9))\n"
        "except Exception as error: line, status = m.describe_error(error); print(line); sys.exit(status)"
    )

    def limit() -> None:  # the kernel refuses to write files beyond this size, as a full disk refuses
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    result = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(store)],
        capture_output=True, text=True, preexec_fn=limit, timeout=120,
    )  # fmt: skip
    assert result.returncode == USER_MISTAKE, result.stderr
    assert "limit reached while writing" in result.stdout  # tests/data fills a real file system
    assert EpisodeStore(store).dataset_fingerprint() == before


@pytest.mark.parametrize("verbose", [False, True])
def test_a_command_that_cannot_write_is_one_line_and_status_2(tmp_path: Path, verbose: bool) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    store, cache = make_store(tmp_path / "s", 112), tmp_path / "cache"
    command = [sys.executable, "-m", "s2robot.cli.main", "encode", f"store={store}", "encoder=base", f"cache={cache}"]
    result = subprocess.run(command + ["-v"] * verbose, capture_output=True, text=True, preexec_fn=limit, timeout=120)
    assert result.returncode == USER_MISTAKE, result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error:")]) == 1
    assert ("Traceback" in result.stderr) == verbose
    assert not list(cache.rglob("*.safetensors"))


def test_without_gl_collect_says_what_to_install(tmp_path: Path) -> None:
    env = {**os.environ, "MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_FILENAMES": os.devnull}
    command = [
        sys.executable,
        "-m",
        "s2robot.cli.main",
        "collect",
        f"store={tmp_path / 's'}",
        "episodes=1",
        "workers=1",
    ]
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=180)
    assert result.returncode == USER_MISTAKE, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "OpenGL" in last
    assert "s2robot doctor" in last
