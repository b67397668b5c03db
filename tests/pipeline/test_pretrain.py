"""Pre-training: what a token is told is where the simulator says, both sizes see the same crops, and a run resumes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from s2robot.cli.main import main
from s2robot.configs import choice, names
from s2robot.encoders import load_encoder
from s2robot.encoders.huggingface import WEIGHTS_FOLDER
from s2robot.envs.random_scenes import GENERATOR_VERSION
from s2robot.errors import S2RobotError
from s2robot.pipeline.fit import Schedule, TrainState, fit
from s2robot.pipeline.pretrain import frames as frames_module
from s2robot.pipeline.pretrain import run as pretrain_module
from s2robot.pipeline.pretrain.crops import CELLS, FAR_CELLS, FIRST_OBJECT, ROBOT, CropBatch, CropSampler
from s2robot.pipeline.pretrain.dense import DenseLabels, mean_where_known
from s2robot.pipeline.pretrain.frames import KEYS, SHARD_FRAMES, FrameSet, generate_frames
from s2robot.pipeline.pretrain.mae import MaskedReconstruction, _patches, _visible_tokens
from s2robot.pipeline.pretrain.run import PretrainConfig, Pretrainer, build_vit, export_weights, pretrain
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
        "dense": 1.0, "mae": 0.0, "scales": (1,), "keep_every": 0,
        "warmup": 1, "lr": 1e-3, "weight_decay": 0.05, "seed": 0, "save_every": 2, "workers": 0, "threads": 1,
    }  # fmt: skip
    return PretrainConfig(**{**plain, **changes})


def samples(frames: Path, tile_px: int, count: int = 60) -> CropBatch:
    return CropSampler(FrameSet(frames, 2 * SHARD_FRAMES), count, tile_px, CELLS * tile_px // 16, seed=3)(0)


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
    loss = mean_where_known(torch.nn.functional.l1_loss, guess, target)
    [gradient] = torch.autograd.grad(loss, guess)
    assert loss.item() == 3
    assert gradient.tolist() == [-0.5, 0, 0, -0.5]
    assert mean_where_known(torch.nn.functional.l1_loss, guess, torch.full((4,), torch.nan)).item() == 0


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
    whole = pretrain(config(frames, tmp_path / "whole", keep_every=4))
    kept = tmp_path / "whole" / "kept"
    assert sorted(path.name for path in kept.iterdir()) == ["step-000004", "step-000006"]
    halfway, end = ((kept / step / "model.safetensors").read_bytes() for step in ("step-000004", "step-000006"))
    assert halfway != end == (whole / "model.safetensors").read_bytes()
    real = pretrain_module.save_checkpoint

    def save_then_die(*args: Any, **kwargs: Any) -> None:
        if args[1] == 4:  # after the point of the curve, before the checkpoint: the point is written again
            raise KeyboardInterrupt(DEATH)
        real(*args, **kwargs)

    monkeypatch.setattr(pretrain_module, "save_checkpoint", save_then_die)
    with pytest.raises(KeyboardInterrupt, match=DEATH):
        pretrain(config(frames, tmp_path / "part", keep_every=4))
    assert (tmp_path / "part" / "kept" / "step-000004" / "model.safetensors").exists(), "kept before the checkpoint"
    monkeypatch.setattr(pretrain_module, "save_checkpoint", real)
    resumed = pretrain(config(frames, tmp_path / "part"))
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (tmp_path / "part" / "val.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6]


@pytest.mark.parametrize(
    "changes",
    [{"dense": 0.0, "mae": 1.0}, {"dense": 1.0, "mae": 1.0}, {"scales": (1, 2)}],
    ids=["mae", "dense and mae", "two scales"],
)
def test_every_objective_learns(frames: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    pretrain(config(frames, tmp_path, steps=60, batch_size=16, warmup=5, save_every=10, lr=3e-3, **changes))
    curve = [json.loads(line) for line in (tmp_path / "val.jsonl").read_text().splitlines()]
    expected = {"class", "offset", "grip", "albedo", "depth"} if changes.get("dense", 1) else set()
    assert set(curve[0]) == {"step"} | expected | ({"mae"} if changes.get("mae") else set())
    for term in set(curve[0]) - {"step"}:
        assert curve[-1][term] < curve[0][term], term
    assert (tmp_path / "loss.png").stat().st_size > 5_000


@pytest.mark.parametrize("model", names("pretrain"))
def test_every_shipped_size_trains_and_loads(
    model: str, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real widths and tiles, one block deep."""
    monkeypatch.setattr(pretrain_module, "HELD_OUT_CROPS", 2)
    keys = [f"pretrain@model={model}", "model.layers=1", "steps=1", "batch_size=1", f"frames_dir={frames}"]
    keys += [f"frames={2 * SHARD_FRAMES}", f"frame_px={PX}", "threads=1", f"out={tmp_path}", "device=cpu"]
    assert main(["pretrain", *keys]) == 0
    side, width = choice("pretrain", model)["tile_px"], choice("pretrain", model)["hidden_size"]
    encoder = load_encoder("hf", path=str(tmp_path / "weights"), sizes=[side], device="cpu")
    assert (encoder.backbone.image_size, encoder.channels) == (side, width)
    assert max(path.stat().st_size for path in (tmp_path / "weights").iterdir()) < 15 * 2**20


def test_the_weights_of_the_package_are_small_files_in_half_precision() -> None:
    files = [path for path in WEIGHTS_FOLDER.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 15 * 2**20
    assert sum(path.stat().st_size for path in files) < 60e6
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) >= 2
    assert {tensor.dtype for path in weights for tensor in load_file(path).values()} == {torch.float16}


def test_large_weights_are_cut_into_small_files(tmp_path: Path) -> None:
    wide = config(tmp_path, tmp_path, hidden_size=768, heads=12, layers=2, tile_px=224)
    folder = export_weights(build_vit(wide), wide, tmp_path / "weights", "")
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    assert len(shards) > 1
    assert max(path.stat().st_size for path in shards) < 15 * 2**20
    assert load_encoder("hf", path=str(folder), sizes=[224], device="cpu").channels == 768


def test_frames_are_drawn_once_and_again_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "SHARD_FRAMES", 2)
    generate_frames(tmp_path / "one", 4, 1_000_000, PX, workers=0)
    generate_frames(tmp_path / "two", 6, 1_000_000, PX, workers=0)
    for key in frames_module.KEYS:
        for shard in range(2):
            name = f"{key}-{shard:04d}.npy"
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    drawn: list[int] = []
    monkeypatch.setattr(frames_module, "draw_shard", lambda task: drawn.append(task.index) or task.index)
    (tmp_path / "two" / f"{frames_module.KEYS[-1]}-0001.npy").unlink()  # a kill between two arrays of a shard
    generate_frames(tmp_path / "two", 6, 1_000_000, PX, workers=0)
    assert drawn == [1]


def test_the_robots_many_cells_do_not_dilute_the_objects_offsets() -> None:
    label = torch.full((1, 4, 4), ROBOT)
    label[0, 0, 0], label[0, 0, 1] = FIRST_OBJECT, 1
    offset = torch.full((1, 4, 4, 2), float(FAR_CELLS))
    offset[0, 0, 0], offset[0, 0, 1] = torch.tensor([1.5, 0.0]), torch.nan
    nothing = torch.full((1, 4, 4, 3), torch.nan)
    batch = CropBatch(torch.zeros(1, 3, 16, 16), label, offset, nothing, torch.zeros(1, 4, 4), torch.zeros(1, 1).long())
    head = DenseLabels(8)
    head.head.weight.data.zero_()
    head.head.bias.data.zero_()
    terms = head.terms(torch.zeros(1, 1, 8), batch)
    assert terms["offset"].item() == pytest.approx((1.5 - 0.5) / 2)  # two numbers of one cell
    assert terms["grip"].item() == pytest.approx((FAR_CELLS - 0.5) / FAR_CELLS)


def test_the_masked_encoder_sees_the_kept_patches_alone(frames: Path, tmp_path: Path) -> None:
    backbone = build_vit(config(frames, tmp_path, tile_px=64)).eval()
    images = torch.rand(2, 3, 64, 64)
    kept = torch.tensor([[0, 5, 15], [3, 4, 9]])
    before = _visible_tokens(backbone, images, kept)
    assert before.shape == (2, 3, 32)
    torch.testing.assert_close(_patches(images)[1, 4].view(3, 16, 16), images[1, :, 16:32, :16])
    spoilt = images.clone()
    spoilt[0, :, :16, 16:32] = 9  # patch 1 of the first image is hidden
    torch.testing.assert_close(_visible_tokens(backbone, spoilt, kept), before)
    spoilt[0, :, :16, :16] = 9  # patch 0 is not
    assert (_visible_tokens(backbone, spoilt, kept) - before)[0].abs().max() > 0.01
    head = MaskedReconstruction(backbone)
    with torch.no_grad():
        head.hidden.fill_(7.0)
        head.place.zero_()
    filled = head._with_hidden(before, kept)
    torch.testing.assert_close(filled[0, 5], head.embed(before)[0, 1])
    assert (filled[0, 1] == 7).all()


def test_two_processes_average_the_gradients_of_their_halves(frames: Path, tmp_path: Path) -> None:
    keys = ["model.tile_px=32", "model.hidden_size=32", "model.heads=2", "model.layers=1", f"frames={2 * SHARD_FRAMES}"]
    keys += [f"frames_dir={frames}", f"frame_px={PX}", "batch_size=16", "steps=10", "save_every=10", "warmup=2"]
    keys += ["lr=1e-3", "workers=0", "threads=1", "device=cpu", f"out={tmp_path}"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "-m", "s2robot.cli.main", "pretrain", *keys]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    alone = config(frames, tmp_path, batch_size=16, steps=10, warmup=2)
    torch.manual_seed(alone.seed)
    module = Pretrainer(build_vit(alone), alone)
    state = TrainState.create(module, Schedule(alone.lr, 10, 2), seed=alone.seed, weight_decay=alone.weight_decay)
    train, _ = FrameSet(frames, 2 * SHARD_FRAMES).split(last=SHARD_FRAMES)
    halves = [CropSampler(train, 16, 32, CELLS * 2, alone.seed, rank, 2) for rank in range(2)]
    for _ in fit(lambda step: (module(halves[0](step))[0] + module(halves[1](step))[0]) / 2, lambda step: step, state):
        pass
    two = load_encoder("hf", path=str(tmp_path / "weights"), sizes=[32], device="cpu", dtype="float32").backbone.model
    for name, weight in module.backbone.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], weight, atol=2e-3, rtol=0)
    steps = [json.loads(line)["step"] for line in (tmp_path / "val.jsonl").read_text().splitlines()]
    assert steps == [10], "one process writes"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"save_every": 0}, "save_every=0 are at least 1"),
        ({"tile_px": 40}, "tile_px=40 must divide by the patch"),
        ({"dense": 0.0}, "weights of 0 or more, one of them above 0"),
        ({"scales": (2, 1)}, r"scales=\[2, 1\]; ascending multiples"),
        ({"dense": 0.0, "mae": 1.0, "scales": (1, 2)}, "need the dense objective"),
    ],
)
def test_a_recipe_that_cannot_be_is_one_line(
    frames: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(S2RobotError, match=message):
        config(frames, tmp_path, **changes)


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


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("steps=abc", "pretrain: steps='abc' is a str; allowed: int"),
        ("scales=[1,1.5]", "pretrain: scales=(1, 1.5) is a tuple; allowed: a list of int"),
        ("scales=[1,a]", "pretrain: scales=(1, 'a') is a tuple; allowed: a list of int"),
        ("scales=[2,1]", "scales=[2, 1]; ascending multiples of the tile from 1 on"),
        ("model.heads=0", "heads=0 and layers=12 are at least 1"),
    ],
)
def test_settings_that_are_none_are_refused_before_anything_is_drawn(
    argument: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", argument, f"out={tmp_path / 'out'}", f"frames_dir={tmp_path / 'frames'}"]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_probes_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(S2RobotError, match="reach the probes', from 9000000 on"):
        generate_frames(tmp_path, 2 * SHARD_FRAMES, 9_000_000 - SHARD_FRAMES, PX)


def test_another_recipe_is_refused_in_the_same_folder(frames: Path, tmp_path: Path) -> None:
    pretrain(config(frames, tmp_path / "run"))
    with pytest.raises(S2RobotError, match=r"trained with another recipe \(lr\)"):
        pretrain(config(frames, tmp_path / "run", lr=1e-4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pretraining_runs_on_cuda(frames: Path, tmp_path: Path) -> None:
    assert (pretrain(config(frames, tmp_path / "run"), "cuda") / "model.safetensors").exists()
