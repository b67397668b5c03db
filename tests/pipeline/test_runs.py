"""What a training run does beside descending: chooses its checkpoint, stops at NaN, shares a batch, keeps a curve."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from s2robot.cli.main import main
from s2robot.configs import choice
from s2robot.data.episodes import EpisodeStore, EpisodeWriter
from s2robot.data.features import FeatureCache
from s2robot.encoders import load_encoder
from s2robot.errors import DamagedError, S2RobotError
from s2robot.pipeline import select as select_module
from s2robot.pipeline import tokens as tokens_module
from s2robot.pipeline import train as train_module
from s2robot.pipeline.agents import load_policy
from s2robot.pipeline.checkpoint import (
    choose_checkpoint,
    chosen_checkpoint,
    newest_checkpoint,
    open_checkpoint,
    save_checkpoint,
)
from s2robot.pipeline.distributed import Group
from s2robot.pipeline.job import Job
from s2robot.pipeline.recipe import Recipe, recipe_from
from s2robot.pipeline.rollout import RolloutPool
from s2robot.pipeline.run import FAILED, Run
from s2robot.pipeline.select import CANDIDATES, Candidates
from s2robot.pipeline.train import train
from s2robot.policies.policy import ChunkPolicy
from s2robot.storage import read_json
from s2robot.types import Observation
from tests.data.crash import run_and_kill
from tests.policy_names import PIXEL_POLICIES

from .conftest import ALONE, CAMERAS, SHORT, TASK, job, lines

CPU = torch.device("cpu")
DEATH = "while rolling out"


def test_the_checkpoint_is_the_point_that_solves_most_validation_seeds(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path
) -> None:
    with RolloutPool({**TASK, "horizon": 8}, 1) as pool:
        short = job(demonstrations, cache, rollouts=2, rollout_seeds="10000:10002")
        result = train(short, tmp_path, ALONE, pool)
        again = train(short, tmp_path, ALONE, pool)
    assert again == result
    scores = lines(tmp_path / CANDIDATES / "scores.jsonl")
    steps = [line["step"] for line in scores]
    assert [line["seeds"] for line in scores] == [2, 2]
    assert steps[-1] == newest_checkpoint(tmp_path / "checkpoints")[1]["step"]  # type: ignore[index]
    assert result.checkpoint.name == f"step-{steps[-1]:08d}"  # none solved any: the latest
    assert open_checkpoint(tmp_path)[0] == result.checkpoint
    curve = {point["step"]: point for point in result.curve}
    assert [curve[step]["success"] for step in steps] == [0.0, 0.0]


def test_neither_validation_nor_rollouts_touch_the_training(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RolloutPool({**TASK, "horizon": 8}, 1) as pool:
        judged = train(
            job(demonstrations, cache, rollouts=2, rollout_seeds="10000:10002"), tmp_path / "judged", ALONE, pool
        )
    assert {"val_loss", "success"} <= {key for point in judged.curve for key in point}
    monkeypatch.setattr(train_module, "validate", lambda policy, split: 0.0)
    train(job(demonstrations, cache), tmp_path / "alone", ALONE)
    (one, _), (other, _) = (newest_checkpoint(tmp_path / run / "checkpoints") for run in ("judged", "alone"))  # type: ignore[misc]
    for file in ("policy.safetensors", "train_state.safetensors"):
        assert (one / file).read_bytes() == (other / file).read_bytes()


@pytest.mark.slow
def test_compiled_steps_lose_what_eager_ones_do(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path
) -> None:
    without_chance = {"head": {"dropout": 0.0}, "observation": {"token_dropout": 0.0, "proprio_noise": 0.0}}
    policy = choice("policy", "bc_mlp", without_chance)
    curves = []
    for compiled in (False, True):
        run = replace(job(demonstrations, cache, compile=compiled), policy=policy)
        curve = train(run, tmp_path / str(compiled), ALONE).curve
        curves.append([point[key] for point in curve for key in ("train_loss", "val_loss")])
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


@pytest.mark.parametrize(("solved", "best"), [([3, 5, 4], 20), ([5, 5, 4], 20), ([0, 0, 0], 30)])
def test_the_best_point_counts_and_the_latest_among_equals(tmp_path: Path, solved: list[int], best: int) -> None:
    candidates = Candidates(tmp_path, [10, 20, 30], range(10000, 10005), "this")
    candidates.folder.mkdir()
    scores = [
        {"step": s, "solved": k, "seeds": 5, "run": "this"} for s, k in zip(candidates.steps, solved, strict=True)
    ]
    scores += [{"step": 10, "solved": 5, "run": "one that was in this folder before"}]
    (candidates.folder / "scores.jsonl").write_text("".join(json.dumps(score) + "\n" for score in scores))
    candidates.choose(tmp_path)
    assert chosen_checkpoint(tmp_path) == tmp_path / f"candidates/step-{best:08d}"


def test_a_damaged_choice_is_said_and_made_again_and_a_damaged_line_is_named(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RolloutPool({**TASK, "horizon": 8}, 1) as pool:
        short = job(demonstrations, cache, rollouts=2, rollout_seeds="10000:10002")
        result = train(short, tmp_path, ALONE, pool)
        note = tmp_path / "chosen.json"
        intact = note.read_text()
        other = intact.replace(result.checkpoint.name, "step-00000001")
        for damage in ("{", "[]", '{"checkpoint": "candidates/step-00000010"}', other):
            note.write_text(damage)
            assert open_checkpoint(tmp_path)[0].parent.name == "checkpoints"
            assert "chosen.json is damaged: the newest checkpoint is used until" in capsys.readouterr().err
        assert train(short, tmp_path, ALONE, pool) == result
        assert note.read_text() == intact
        for file in (f"{CANDIDATES}/scores.jsonl", "curve.jsonl"):
            (tmp_path / file).write_bytes(b"\xff{" + (tmp_path / file).read_bytes())
            note.unlink(missing_ok=True)
            with pytest.raises(DamagedError, match=r"jsonl, line 1 is damaged .*; delete that line"):
                train(short, tmp_path, ALONE, pool)


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_kills_at_any_moment_lose_the_steps_since_the_last_save_alone(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, kills: int
) -> None:
    torch.set_num_threads(1)
    train(job(demonstrations, cache, epochs=2 * kills, save_every_s=0.0), tmp_path / "whole", ALONE)
    child = [sys.executable, str(Path(__file__).with_name("train_child.py"))]
    command = [*child, str(demonstrations.path), str(cache.folder), str(tmp_path / "part"), str(2 * kills)]
    met = 0
    for moment in np.random.default_rng(0).uniform(0.0, 0.5, kills):  # seconds after the first save
        outcome = run_and_kill(command, moment)
        found = newest_checkpoint(tmp_path / "part" / "checkpoints")
        assert found is not None
        assert found[1]["step"] >= max(map(int, outcome.lines), default=0)
        met += not outcome.finished
    assert met >= min(kills, 20)
    subprocess.run(command, check=True, capture_output=True)
    weights = [open_checkpoint(tmp_path / run)[0] / "policy.safetensors" for run in ("whole", "part")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_killed_in_its_rollouts_rolls_out_again_and_ends_alike(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = job(demonstrations, cache, rollouts=2, rollout_seeds="10000:10002")
    real = select_module.rollout

    def killed(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt(DEATH)

    with RolloutPool({**TASK, "horizon": 8}, 1) as pool:
        whole = train(short, tmp_path / "whole", ALONE, pool)
        monkeypatch.setattr(select_module, "rollout", killed)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt, match=DEATH):
                train(short, tmp_path / "part", ALONE, pool)
        monkeypatch.setattr(select_module, "rollout", real)
        part = train(short, tmp_path / "part", ALONE, pool)
    assert lines(tmp_path / "part" / CANDIDATES / "scores.jsonl") == lines(
        tmp_path / "whole" / CANDIDATES / "scores.jsonl"
    )
    weights = [(run.checkpoint / "policy.safetensors").read_bytes() for run in (whole, part)]
    assert weights[0] == weights[1]


def test_a_loss_that_is_no_number_stops_names_the_episodes_and_keeps_the_last_checkpoint(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = ChunkPolicy.loss, [0]

    def breaks(self: ChunkPolicy, batch: Any) -> torch.Tensor:
        calls[0] += self.training
        return real(self, batch) * (float("nan") if calls[0] == 6 and self.training else 1.0)

    monkeypatch.setattr(ChunkPolicy, "loss", breaks)
    message = (
        r"the loss became nan and its gradient nan at step 6, whose batch draws from \d{6}.*; the checkpoint of step 5 "
    )
    with pytest.raises(S2RobotError, match=message):
        train(job(demonstrations, cache, save_every_s=0.0), tmp_path, ALONE)
    assert newest_checkpoint(tmp_path / "checkpoints")[1]["step"] == 5  # type: ignore[index]
    assert set(read_json(tmp_path / FAILED)["episodes"]) <= set(demonstrations.episodes)


@pytest.mark.parametrize("step", [6, None])  # None: the very last, after which no loss would tell
def test_a_gradient_that_is_no_number_is_noticed_before_the_weights_are_saved(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int | None
) -> None:
    planned = job(demonstrations, cache, save_every_s=0.0 if step else 1e9)
    data = planned.data(CPU)
    spoilt = step or planned.recipe.steps(len(data.train))
    real, calls = torch.nn.utils.clip_grad_norm_, [0]

    def breaks(parameters: Any, clip: float) -> torch.Tensor:
        calls[0] += 1
        found = list(parameters)
        if calls[0] == spoilt:
            found[0].grad.fill_(float("inf"))
        return real(found, clip)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", breaks)
    with pytest.raises(S2RobotError, match=rf"its gradient (inf|nan) at step {spoilt}, whose batch draws from"):
        train(planned, tmp_path, ALONE)
    found = newest_checkpoint(tmp_path / "checkpoints")
    assert found is None if step is None else found[1]["step"] == 5  # type: ignore[index]


def test_a_process_that_saves_nothing_forgets_its_losses_at_every_point(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Run] = []

    class Watched(Run):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            runs.append(self)

    monkeypatch.setattr(train_module, "Run", Watched)
    short = job(demonstrations, cache, batch_size=16, save_every_s=0.0)
    done = train(short, tmp_path / "first", ALONE)
    second = Group(1, 2, torch.device("cpu"))
    monkeypatch.setattr(Group, "wait", lambda self: None)
    monkeypatch.setattr(Group, "mean", lambda self, value: value)
    monkeypatch.setattr(Group, "wrap", lambda self, module: module)
    monkeypatch.setattr(train_module, "_result", lambda out, identity: done)
    train(short, tmp_path / "second", second)
    assert runs[1]._losses == []
    assert not (tmp_path / "second" / "curve.jsonl").exists()


def test_a_damaged_choice_gives_way_to_the_newest_checkpoint(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(job(demonstrations, cache), tmp_path, ALONE)
    worse = save_checkpoint(tmp_path / CANDIDATES, 3, {"policy": {"w": torch.zeros(3)}}, {})
    choose_checkpoint(tmp_path, worse)
    (worse / "policy.safetensors").write_bytes(b"damaged")
    assert open_checkpoint(tmp_path)[0] == result.checkpoint
    assert "the chosen checkpoint is damaged, the newest is used instead" in capsys.readouterr().err


def test_the_curve_says_how_long_steps_waited_for_data(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path
) -> None:
    result = train(job(demonstrations, cache), tmp_path, ALONE)
    assert {"step", "train_loss", "val_loss", "lr", "grad_norm", "steps_s", "data_wait"} <= result.curve[-1].keys()
    assert 0 < result.curve[-1]["data_wait"] < 1
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("views", [0, 2])
def test_streamed_features_train_to_the_same_weights_as_resident_ones(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, views: int
) -> None:
    weights = []
    for place in ("resident", "streamed"):
        result = train(job(demonstrations, cache, features=place, views=views), tmp_path / place, ALONE)
        weights.append((result.checkpoint / "policy.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_features_that_do_not_fit_are_streamed_or_refused_in_one_line(
    demonstrations: EpisodeStore, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(tokens_module, "_free_bytes", lambda device: 10_000)
    data = job(demonstrations, cache).data(ALONE.device)
    assert isinstance(data.train.tokens["agentview"], tokens_module.StreamedTokens)
    assert "GB are streamed from" in capsys.readouterr().err
    with pytest.raises(S2RobotError, match=r"do not fit into the 0\.0 GB that are free on cpu; give features=streamed"):
        job(demonstrations, cache, features="resident").data(ALONE.device)


@pytest.mark.parametrize(("folder", "cache"), [(".", "inactive_file"), ("memory", "total_inactive_file")])
def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, cache: str) -> None:
    monkeypatch.setattr(tokens_module, "CGROUP", tmp_path)
    whole = tokens_module._free_bytes(CPU)
    (limit, used, _) = tokens_module.CGROUPS[folder == "memory"]
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / limit).write_text("max\n")
    assert tokens_module._container_bytes() == math.inf
    for name, text in ((limit, "9000\n"), (used, "5000\n"), (f"{folder}/memory.stat", f"anon 7\n{cache} 1000\n")):
        (tmp_path / name).write_text(text)
    assert tokens_module._free_bytes(CPU) == 5000 < whole


def test_another_weight_of_an_adapted_backbone_is_another_run(demonstrations: EpisodeStore, tmp_path: Path) -> None:
    found = []
    for encoder in ("s2", "base", {**choice("encoder", "s2"), "weights": "random"}):
        policy = choice("policy", "lora_bc", {"observation": {"encoder": encoder}})
        planned = replace(job(demonstrations, FeatureCache(tmp_path)), policy=policy)
        found.append(planned.identity()["adapted"])
    assert found[0] == found[1] != found[2]
    assert "adapted" not in job(demonstrations, FeatureCache(tmp_path)).identity()


def test_batches_are_made_ahead_and_come_in_order() -> None:
    made: list[int] = []
    three_ahead = threading.Event()

    def batches(step: int) -> int:
        made.append(step)
        if step == 8:
            three_ahead.set()
        return 10 * step

    with tokens_module.Prefetch(batches) as ahead:
        assert ahead(5) == 50
        assert three_ahead.wait(timeout=30)
        assert [ahead(step) for step in range(6, 9)] == [60, 70, 80]
    assert made[:4] == [5, 6, 7, 8]
    assert len(made) == len(set(made))


def test_two_processes_have_the_losses_of_one(demonstrations: EpisodeStore, tmp_path: Path) -> None:
    plain = ["policy.head.dropout=0.0", "policy.observation.proprio_noise=0.0", f"store={demonstrations.path}"]
    plain += [
        "policy.aux_weight=0.5",
        "encoder=blind",
        "device=cpu",
        "recipe.tensorboard=false",
        f"cache={tmp_path / 'cache'}",
    ]
    plain += [f"recipe.{key}={value}" for key, value in SHORT.items()]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    curves = []
    for name, launch in (("one", []), ("two", launcher)):
        out = tmp_path / name
        command = [sys.executable, *launch, "-m", "s2robot.cli.main", "train", *plain, f"out={out}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        curves.append([(p["step"], p["train_loss"], p["val_loss"]) for p in lines(out / "curve.jsonl")])
    assert len(curves[0]) > 3
    torch.testing.assert_close(torch.tensor(curves[0]), torch.tensor(curves[1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout_seeds": "20000:20010"}, "leave those set apart for validation, 10000:20000"),
        ({"precision": "fp16"}, "precision=fp16; allowed: float32, tf32, bf16"),
        ({"rollouts": -1}, "rollouts=-1 and warmup=2 at least 0"),
        ({"lr": 0.0}, "lr=0.0 and clip=1.0 above 0"),
        ({"features": "residnt"}, "features=residnt; allowed: auto, resident, streamed"),
        ({"seed": -1}, "seed=-1 and weight_decay=0.01 must be at least 0"),
        ({"beta1": 1.5}, "beta1=1.5 and beta2=0.999 at least 0 and below 1"),
    ],
)
def test_a_recipe_that_cannot_be_is_one_line(changes: dict[str, Any], message: str) -> None:
    plain = recipe_from(choice("policy", "bc_mlp"), SHORT)
    assert isinstance(plain, Recipe)
    with pytest.raises(S2RobotError, match=message):
        replace(plain, **changes)


@pytest.mark.parametrize(
    ("policy", "recipe", "message"),
    [
        ({"chunk": "ten"}, {}, r"policy bc_mlp: invalid literal .*'ten'; observation_horizon, chunk and execute are"),
        ({"chunk": 900}, {}, r"chunk=900 and observation_horizon=1, execute=4 steps apart, reach over 900 and 1 steps"),
        ({"execute": 9}, {}, r"execute=9, chunk=8: the first must be at least 1"),
        ({"actions": {"unit": "m"}}, {}, r"policy bc_mlp: .*unexpected keyword argument 'unit'; .*representation"),
        ({"observation_horizon": 2}, {"stride": 3}, r"stride=3: give 1 or more, and with observation_horizon=2 a div"),
        ({"observation": {"pool": {"hiden": 3}}}, {}, r"configuration of KeypointPool: .*keys are grid, channels"),
        ({"observation": {"pool": {"hidden": "x"}}}, {}, r"KeypointPool: hidden='x' is a str; allowed: int"),
        (
            {"head": {"clip": 1.0}},
            {},
            r"policy.head.clip=1.0 would cut off actions of .*normalise=z_score, which come to 6",
        ),
        ({"head": {"dropout": 2}}, {}, r"policy bc_mlp cannot be built: dropout probability"),
        ({"ensemble": -1}, {}, r"ensemble=-1; give a rate of at least 0, or null for none"),
        ({}, {"validation_fraction": 0.99}, r"6 episodes, of which validation_fraction=0.99 holds out 6: none is left"),
    ],
)
def test_what_would_stop_training_is_said_before_anything_is_encoded(
    demonstrations: EpisodeStore, tmp_path: Path, policy: dict[str, Any], recipe: dict[str, Any], message: str
) -> None:
    planned = job(demonstrations, FeatureCache(tmp_path), **recipe)
    with pytest.raises(S2RobotError, match=message):
        replace(planned, policy=OmegaConf.to_container(OmegaConf.merge(planned.policy, policy))).check()
    assert not list(tmp_path.iterdir())


def test_a_pose_that_absolute_actions_lack_and_a_batch_that_does_not_divide_are_said_as_early(
    demonstrations: EpisodeStore, tmp_path: Path
) -> None:
    names = tuple(f"joint_{i}_rad" for i in range(len(demonstrations.spec.observation.proprio)))
    spec = replace(demonstrations.spec, observation=replace(demonstrations.spec.observation, proprio=names))
    writer = EpisodeWriter(tmp_path / "store", spec)
    for name in demonstrations.episodes[:3]:
        writer.write(demonstrations.read(name))
    planned = job(EpisodeStore(tmp_path / "store"), FeatureCache(tmp_path / "cache"))
    actions = {"representation": "absolute", "normalise": "min_max"}
    with pytest.raises(S2RobotError, match="absolute actions need proprioception that begins with"):
        replace(planned, policy={**planned.policy, "actions": actions}).check()
    with pytest.raises(S2RobotError, match="batch_size=32 does not divide by 3 processes"):
        planned.check(processes=3)


def test_another_run_in_the_folder_is_said_before_anything_is_encoded(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(job(demonstrations, cache), tmp_path / "run", ALONE)
    words = ["train", f"store={demonstrations.path}", f"out={tmp_path / 'run'}", f"cache={tmp_path / 'new'}"]
    assert main([*words, "encoder=base", "encoder.sizes=[48]", "cameras=agentview", "device=cpu"]) == 2
    assert "holds a run with another encoder" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_policy_is_not_told_positions_that_nobody_recorded(demonstrations: EpisodeStore, tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "store", demonstrations.spec)
    for name in demonstrations.episodes[:3]:
        writer.write(replace(demonstrations.read(name), labels={}))
    planned = job(EpisodeStore(tmp_path / "store"), FeatureCache(tmp_path / "cache"))
    planned = replace(planned, policy={**planned.policy, "aux_weight": 0.5})
    with pytest.raises(S2RobotError, match=r"aux_weight=0\.5: the demonstrations have no label target_pos_w"):
        planned.check()
    planned.encode()
    with pytest.raises(S2RobotError, match=r"aux_weight=0\.5: the demonstrations have no label target_pos_w"):
        train(planned, tmp_path / "run", ALONE)


def test_rollouts_without_a_task_are_refused(demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(S2RobotError, match="rollouts=1: give the simulated task to roll out in, or rollouts=0"):
        train(job(demonstrations, cache, rollouts=1), tmp_path, ALONE)


@pytest.mark.parametrize("name", PIXEL_POLICIES)
def test_a_policy_trained_end_to_end_goes_the_same_way(demonstrations: EpisodeStore, tmp_path: Path, name: str) -> None:
    encoder, cache = load_encoder("pixels", device="cpu", size=48), FeatureCache(tmp_path / "cache")
    small = {"encoder": choice("encoder", "base", {"sizes": [32]})} if name.startswith("lora") else {"crop": 40}
    policy = choice("policy", name, {"observation": small})
    recipe = recipe_from(policy, SHORT | {"epochs": 1, "views": None})
    planned = Job(demonstrations, encoder, choice("encoder", "pixels", {"size": 48}), cache, policy, CAMERAS, recipe)
    planned.encode()
    result = train(planned, tmp_path / "run", ALONE)
    episode = demonstrations.read(demonstrations.episodes[0])
    seen = Observation({"agentview": episode.images["agentview"][0]}, episode.proprio[0], episode.goal, 0.0)
    actions = load_policy(result.checkpoint, "cpu").infer(seen)
    assert actions.shape == (policy["execute"], 7)
    assert np.isfinite(actions).all()
