"""Pre-training: what a token is told is where the simulator says, both sizes see the same crops, and a run resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2robot.encoders import load_encoder
from s2robot.envs.random_scenes import GENERATOR_VERSION
from s2robot.errors import S2RobotError
from s2robot.pipeline import pretrain as pretrain_module
from s2robot.pipeline.dense import CELLS, FIRST_OBJECT, ROBOT, CropSampler, DenseBatch, _mean_where_known
from s2robot.pipeline.frames import KEYS, SHARD_FRAMES, FrameSet, generate_frames
from s2robot.pipeline.pretrain import PretrainConfig, pretrain
from s2robot.storage import write_json

PX, OBJECTS = 64, 2
GRIP_PX = (20.0, 60.0)
DEATH = "killed by the test"


def write_frames(folder: Path, shards: int = 2) -> None:
    """Frames of one 8 px object each, at a place, with a colour and a depth that the arrays state, and a robot that
    fills the lowest 8 rows. Object 1 is textured: it has no one colour.
    """
    folder.mkdir(parents=True)
    recipe = {"generator": GENERATOR_VERSION, "first_seed": 1_000_000, "frame_px": PX, "shard_frames": SHARD_FRAMES}
    write_json(folder / "frames.json", recipe)
    rng = np.random.default_rng(0)
    for shard in range(shards):
        arrays: dict[str, np.ndarray] = {
            "rgb": np.full((SHARD_FRAMES, PX, PX, 3), 128, np.uint8),
            "code": np.ones((SHARD_FRAMES, PX, PX), np.uint8),
            "depth_m": np.full((SHARD_FRAMES, PX, PX), 1.0, np.float16),
            "centre_px": np.full((SHARD_FRAMES, OBJECTS, 2), np.nan, np.float32),
            "robot_px": np.full((SHARD_FRAMES, 2, 2), GRIP_PX, np.float32),
            "albedo": rng.random((SHARD_FRAMES, OBJECTS, 3)).astype(np.float32),
        }
        arrays["code"][:, -8:] = ROBOT
        colour = arrays["albedo"].copy()
        arrays["albedo"][:, 1] = np.nan
        for i in range(SHARD_FRAMES):
            x, y = rng.integers(0, PX - 8, 2)
            which = int(rng.integers(OBJECTS))
            window = (i, slice(y, y + 8), slice(x, x + 8))
            arrays["code"][window] = FIRST_OBJECT + which
            arrays["rgb"][window] = (255 * colour[i, which]).astype(np.uint8)
            arrays["depth_m"][window] = 0.5
            arrays["centre_px"][i, which] = (x + 4, y + 4)
        for key in KEYS:
            np.save(folder / f"{key}-{shard:04d}.npy", arrays[key])


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain") / "frames"
    write_frames(folder)
    return folder


def config(frames: Path, out: Path, **changes: Any) -> PretrainConfig:
    plain: dict[str, Any] = {
        "out": str(out), "frames_dir": str(frames), "frames": 2 * SHARD_FRAMES, "first_seed": 1_000_000,
        "frame_px": PX, "hidden_size": 32, "heads": 2, "layers": 1, "tile_px": 32, "batch_size": 4, "steps": 6,
        "warmup": 1, "lr": 1e-3, "weight_decay": 0.05, "seed": 0, "save_every": 2, "workers": 0, "threads": 1,
    }  # fmt: skip
    return PretrainConfig(**{**plain, **changes})


def samples(frames: Path, tile_px: int, count: int = 60) -> DenseBatch:
    return CropSampler(FrameSet(frames, 2 * SHARD_FRAMES), count, tile_px, 16, seed=3)(0)


def test_every_object_cell_points_at_its_objects_centre_and_knows_its_colour(frames: Path) -> None:
    batch = samples(frames, 32)
    k = CELLS * 32 // 16
    own = torch.stack(torch.meshgrid(torch.arange(k) + 0.5, torch.arange(k) + 0.5, indexing="xy"), dim=-1)
    seen = 0
    for label, offset, albedo, image in zip(batch.label, batch.offset, batch.albedo, batch.images, strict=True):
        on = label == FIRST_OBJECT
        whole = on.any() and not (on[0].any() or on[-1].any() or on[:, 0].any() or on[:, -1].any())
        if not whole:
            continue
        seen += 1
        centres = (own + offset)[on]
        assert (centres - centres[0]).abs().max() < 1e-3, "all cells of an object name one centre, also when flipped"
        assert (centres[0] - own[on].mean(0)).abs().max() < 1.0
        assert albedo[~on].isnan().all()
        if albedo[on].isnan().all():
            continue  # textured
        assert torch.equal(albedo[on], albedo[on][:1].expand_as(albedo[on]))
        colour = image[:, on.repeat_interleave(32 // k, 0).repeat_interleave(32 // k, 1)].mean(1)
        assert torch.corrcoef(torch.stack([colour, albedo[on][0]]))[0, 1] > 0.5 or albedo[on][0].std() < 0.1
    assert seen > 5


def test_robot_cells_point_at_the_grip_site_and_the_table_at_nothing(frames: Path) -> None:
    batch = samples(frames, 32)
    own = torch.stack(torch.meshgrid(torch.arange(8) + 0.5, torch.arange(8) + 0.5, indexing="xy"), dim=-1)
    grip = torch.tensor(GRIP_PX) * 8 / PX
    seen = 0
    for label, offset in zip(batch.label, batch.offset, strict=True):
        assert offset[label < ROBOT].isnan().all()
        named = (own + offset)[label == ROBOT]
        if len(named) and offset[label == ROBOT].abs().max() < 8:  # not clamped
            assert (named - named[0]).abs().max() < 1e-3
            mirrored = torch.tensor([8 - grip[0], grip[1]])
            seen += bool(min((named - grip).abs().max(), (named - mirrored).abs().max()) < 1e-3)
    assert seen > 3, "whole frames name the grip site itself"


def test_what_is_not_known_teaches_nothing() -> None:
    guess = torch.zeros(4, requires_grad=True)
    target = torch.tensor([2.0, torch.nan, torch.nan, 4.0])
    loss = _mean_where_known(torch.nn.functional.l1_loss, guess, target)
    [gradient] = torch.autograd.grad(loss, guess)
    assert loss.item() == 3
    assert gradient.tolist() == [-0.5, 0, 0, -0.5]
    assert _mean_where_known(torch.nn.functional.l1_loss, guess, torch.full((4,), torch.nan)).item() == 0


def test_depth_is_nearer_where_the_object_is(frames: Path) -> None:
    batch = samples(frames, 32)
    on = batch.label == FIRST_OBJECT
    assert batch.log_depth[on].mean() < batch.log_depth[~on].mean() - 0.2


def test_both_sizes_see_the_same_crops(frames: Path) -> None:
    small, large = samples(frames, 32), samples(frames, 48)
    assert torch.equal(small.label.flatten(1).amax(1), large.label.flatten(1).amax(1))
    resized = torch.nn.functional.interpolate(large.images, (32, 32), mode="bilinear", antialias=True)
    assert (resized - small.images).abs().mean() < 0.05


def test_a_killed_run_resumes_and_ends_with_the_same_weights(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(config(frames, tmp_path / "whole"))
    real = pretrain_module.save_checkpoint

    def save_then_die(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise KeyboardInterrupt(DEATH)

    monkeypatch.setattr(pretrain_module, "save_checkpoint", save_then_die)
    with pytest.raises(KeyboardInterrupt, match=DEATH):
        pretrain(config(frames, tmp_path / "part"))
    monkeypatch.setattr(pretrain_module, "save_checkpoint", real)
    resumed = pretrain(config(frames, tmp_path / "part"))
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (tmp_path / "part" / "val.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6]


def test_the_result_is_an_encoder_that_loads(frames: Path, tmp_path: Path) -> None:
    folder = pretrain(config(frames, tmp_path / "run"))
    encoder = load_encoder("hf", path=str(folder), sizes=[32, 64], device="cpu")
    features = encoder(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert features.tokens.shape == (2, 4, 64)
    assert json.loads((folder / "recipe.json").read_text())["recipe"]["steps"] == 6


def test_a_run_reads_the_frames_it_asked_for_though_the_folder_has_more(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames", shards=3)
    assert len(FrameSet(tmp_path / "frames", 2 * SHARD_FRAMES)) == 2 * SHARD_FRAMES
    with pytest.raises(S2RobotError, match="lacks shard 3 of 4"):
        FrameSet(tmp_path / "frames", 4 * SHARD_FRAMES)


@pytest.mark.parametrize("frames", [100, SHARD_FRAMES])
def test_a_number_of_frames_that_leaves_none_to_train_on_is_refused(tmp_path: Path, frames: int) -> None:
    with pytest.raises(S2RobotError, match="at least two of them, since the last shard is held out"):
        generate_frames(tmp_path, frames, 1_000_000, PX)


def test_another_recipe_is_refused_in_the_same_folder(frames: Path, tmp_path: Path) -> None:
    pretrain(config(frames, tmp_path / "run"))
    with pytest.raises(S2RobotError, match=r"trained with another recipe \(lr\)"):
        pretrain(config(frames, tmp_path / "run", lr=1e-4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pretraining_runs_on_cuda(frames: Path, tmp_path: Path) -> None:
    assert (pretrain(config(frames, tmp_path / "run"), "cuda") / "model.safetensors").exists()
