"""From frames to a checkpoint that acts: features equal the live encoder, runs resume, the wrong encoder is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2robot.configs import choice
from s2robot.data.actions import to_delta
from s2robot.data.config import DataConfig
from s2robot.data.episodes import EpisodeStore, EpisodeWriter
from s2robot.data.features import FeatureCache, FeatureKey
from s2robot.data.transforms import Normalise
from s2robot.data.windows import Horizons
from s2robot.encoders.encoder import MultiscaleEncoder
from s2robot.errors import MismatchError, S2RobotError
from s2robot.pipeline import run as run_module
from s2robot.pipeline import train as train_module
from s2robot.pipeline.checkpoint import CHECKPOINTS, load_tensors, newest_checkpoint, save_checkpoint
from s2robot.pipeline.dataset import POSE_FLOOR, action_floor, checked_episodes, load_training_data
from s2robot.pipeline.encode import encode, encode_for_training
from s2robot.pipeline.job import Job
from s2robot.pipeline.recipe import Recipe
from s2robot.pipeline.sampler import EpochSampler
from s2robot.pipeline.train import train
from s2robot.policies.agent import Agent
from s2robot.policies.batch import Shapes
from s2robot.policies.policy import build_policy
from s2robot.storage import read_json
from s2robot.types import Observation
from tests.policy_names import SMALL_POLICIES

from .conftest import ALONE, CAMERAS, patch_encoder

DEATH = "killed after the fourth save"
CPU = torch.device("cpu")
RECIPE = Recipe(
    epochs=3, batch_size=32, lr=2e-3, weight_decay=1e-2, warmup=2, validation_fraction=0.2, save_every_s=1e9
)


def run(store: EpisodeStore, cache: FeatureCache, out: Path, policy: str = "bc_mlp", **recipe: Any) -> Any:
    settings = replace(RECIPE, **recipe)
    return train(Job(store, patch_encoder(), {}, cache, choice("policy", policy), CAMERAS, settings), out, ALONE)


def config(horizons: Horizons = Horizons(), **settings: Any) -> DataConfig:  # noqa: B008
    return DataConfig(CAMERAS, horizons, validation_fraction=0.2, **settings)


def test_cached_features_equal_the_live_encoder(demonstrations: EpisodeStore, cache: FeatureCache) -> None:
    encoder, episode = patch_encoder(), demonstrations.episodes[1]
    frames = torch.from_numpy(demonstrations.read(episode).images["agentview"]).permute(0, 3, 1, 2)
    live = encoder(frames).tokens.numpy()
    cached = cache.read(FeatureKey(encoder.fingerprint, demonstrations.fingerprint(episode), "agentview")).float32()
    np.testing.assert_allclose(cached, live, rtol=2**-10, atol=1e-4)  # float16 keeps ten bits


def test_one_changed_frame_encodes_that_episode_alone(demonstrations: EpisodeStore, tmp_path: Path) -> None:
    store_folder, encoder, cache = tmp_path / "store", patch_encoder(), FeatureCache(tmp_path / "cache")
    writer = EpisodeWriter(store_folder, demonstrations.spec)
    ids = [writer.write(demonstrations.read(episode)) for episode in demonstrations.episodes[:3]]
    assert encode(EpisodeStore(store_folder), encoder, cache, CAMERAS).episodes == 3
    assert encode(EpisodeStore(store_folder), encoder, cache, CAMERAS).frames == 0
    changed = EpisodeStore(store_folder).read(ids[1])
    changed.images["agentview"][4, 7, 7] ^= 255
    writer.replace(ids[1], changed)
    again = encode(EpisodeStore(store_folder), encoder, cache, CAMERAS)
    assert (again.episodes, again.frames) == (1, len(changed))


def test_a_store_with_frames_smaller_than_the_largest_scale_is_refused(
    demonstrations: EpisodeStore, tmp_path: Path
) -> None:
    encoder = patch_encoder()
    encoder.sizes = (24, 96)
    message = (
        r"camera agentview of .*, encoder patches0: frames of 48 x 48 px are smaller than the largest scale, 96 px"
    )
    with pytest.raises(S2RobotError, match=message):
        encode(demonstrations, encoder, FeatureCache(tmp_path), CAMERAS)


def test_padding_takes_frames_whose_longer_side_is_large_enough(demonstrations: EpisodeStore, tmp_path: Path) -> None:
    flat = replace(demonstrations.spec.observation.cameras[0], height=30, width=48)
    spec = replace(demonstrations.spec, observation=replace(demonstrations.spec.observation, cameras=(flat,)))
    writer = EpisodeWriter(tmp_path / "store", spec)
    for name in demonstrations.episodes[:2]:
        episode = demonstrations.read(name)
        writer.write(replace(episode, images={"agentview": episode.images["agentview"][:, :30]}))
    store, cropping = EpisodeStore(tmp_path / "store"), patch_encoder()
    with pytest.raises(S2RobotError, match="frames of 30 x 48 px are smaller than the largest scale, 48 px"):
        encode(store, cropping, FeatureCache(tmp_path / "cache"), CAMERAS)
    padding = MultiscaleEncoder(cropping.backbone, cropping.sizes, square="pad", dtype="float32", device="cpu")
    assert encode(store, padding, FeatureCache(tmp_path / "cache"), CAMERAS).episodes == 2


@pytest.mark.parametrize("mode", ["z_score", "min_max"])
def test_actions_are_normalised_alike_in_every_unit(demonstrations: EpisodeStore, mode: str) -> None:
    spec = demonstrations.spec.action
    metres = replace(spec, low=tuple(low / 50 for low in spec.low), high=tuple(high / 50 for high in spec.high))
    moved = np.random.default_rng(0).uniform(-1, 1, (200, len(spec.names)))
    found = [Normalise.fit(x, mode, action_floor(s))(x) for s, x in ((spec, moved), (metres, moved / 50))]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    assert action_floor(spec) == [0.05] * len(spec.names)
    assert action_floor(replace(spec, high=(math.inf, *spec.high[1:])))[0] == POSE_FLOOR


def test_training_without_features_names_the_command(demonstrations: EpisodeStore, tmp_path: Path) -> None:
    with pytest.raises(S2RobotError, match="make them with `s2robot encode` and the same encoder, views, stride"):
        run(demonstrations, FeatureCache(tmp_path / "empty"), tmp_path / "run")


def test_features_of_another_encoder_are_named(demonstrations: EpisodeStore, tmp_path: Path) -> None:
    cache, other = FeatureCache(tmp_path / "cache"), patch_encoder(1)
    encode(demonstrations, other, cache, CAMERAS)
    told = (
        rf"by encoder {patch_encoder().fingerprint[:12]} .* those of patches1@24\+48 \({other.fingerprint[:12]}\); make"
    )
    with pytest.raises(S2RobotError, match=told):
        run(demonstrations, cache, tmp_path / "run")


@pytest.mark.parametrize("policy", SMALL_POLICIES)
def test_every_policy_trains_saves_loads_and_acts(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, policy: str
) -> None:
    result = run(demonstrations, cache, tmp_path, policy)
    assert result.curve[-1]["train_loss"] < result.curve[0]["train_loss"]
    agent = agent_of(demonstrations, cache, result, policy)
    observation = observe(demonstrations, 0)
    first = agent.infer(observation)
    assert first.shape == (agent.policy.execute, 7)
    assert np.isfinite(first).all()
    agent.reset()
    np.testing.assert_array_equal(agent.infer(observation), first)


@pytest.mark.parametrize("policy", SMALL_POLICIES)
def test_a_decision_does_not_depend_on_its_neighbours(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, policy: str
) -> None:
    agent = agent_of(demonstrations, cache, run(demonstrations, cache, tmp_path, policy, epochs=1), policy, rows=4)
    seen, keys = [observe(demonstrations, i) for i in range(5)], [(100 + i, 0) for i in range(5)]

    def chunks(order: Sequence[int]) -> np.ndarray:
        return agent.infer_batch(
            [seen[i] for i in order], [agent.new_memory() for _ in order], [keys[i] for i in order]
        )

    together = chunks(range(5))
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 17):
        np.testing.assert_array_equal(chunks(order), together[list(order)])
    np.testing.assert_array_equal(chunks([2])[0], together[2])


def killed_at_the_fourth_save(demonstrations: EpisodeStore, cache: FeatureCache, out: Path) -> None:
    """Leave a run of several steps to a point of the curve: the fourth save falls between two."""
    real, saves = run_module.save_checkpoint, itertools.count()

    def save_then_die(*args: Any, **kwargs: Any) -> Any:
        real(*args, **kwargs)
        if next(saves) == 3:
            raise KeyboardInterrupt(DEATH)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "save_checkpoint", save_then_die)
        with pytest.raises(KeyboardInterrupt, match=DEATH):
            run(demonstrations, cache, out, save_every_s=0.0, batch_size=8)


def test_a_run_that_another_version_of_the_policy_saved_is_refused(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path
) -> None:
    killed_at_the_fourth_save(demonstrations, cache, tmp_path)
    found = newest_checkpoint(tmp_path / CHECKPOINTS)
    assert found is not None
    path, manifest = found
    del manifest["sha256"]
    state = load_tensors(path, "train_state") | {"module.gone_since": torch.zeros(1)}
    save_checkpoint(
        path.parent, manifest["step"], {"policy": load_tensors(path, "policy"), "train_state": state}, manifest
    )
    with pytest.raises(MismatchError, match=r"does not fit the policy .* another version of the code saved it"):
        run(demonstrations, cache, tmp_path, batch_size=8)


def test_a_run_killed_between_saves_ends_like_the_whole_one(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path
) -> None:
    # The point of the curve after the death averages over it.
    whole = run(demonstrations, cache, tmp_path / "whole", batch_size=8)
    killed_at_the_fourth_save(demonstrations, cache, tmp_path / "part")
    resumed = run(demonstrations, cache, tmp_path / "part", batch_size=8)
    assert (whole.checkpoint / "policy.safetensors").read_bytes() == (
        resumed.checkpoint / "policy.safetensors"
    ).read_bytes()
    assert len(whole.curve) < read_json(whole.checkpoint / "manifest.json")["step"] / 2
    timed = {"steps_s", "data_wait"}
    curves = [[{k: v for k, v in point.items() if k not in timed} for point in one.curve] for one in (whole, resumed)]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("file", ["manifest.json", "policy.safetensors", "train_state.safetensors"])
def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    demonstrations: EpisodeStore,
    cache: FeatureCache,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
) -> None:
    whole = run(demonstrations, cache, tmp_path / "whole", batch_size=8)
    killed_at_the_fourth_save(demonstrations, cache, tmp_path / "part")
    newest, manifest = newest_checkpoint(tmp_path / "part" / CHECKPOINTS) or (Path(), {})
    content = bytearray((newest / file).read_bytes())
    content[np.random.default_rng(0).integers(len(content))] ^= 1
    (newest / file).write_bytes(content)
    resumed = run(demonstrations, cache, tmp_path / "part", batch_size=8)
    told = capsys.readouterr().err
    assert "skipping a damaged checkpoint" in told
    assert f"resuming {tmp_path / 'part'} at step {manifest['step'] - 1}" in told
    assert (resumed.checkpoint / "policy.safetensors").read_bytes() == (
        whole.checkpoint / "policy.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_other_precisions_train(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, precision: str
) -> None:
    curves = [
        [point["val_loss"] for point in run(demonstrations, cache, tmp_path / kind, precision=kind).curve]
        for kind in ("float32", precision)
    ]
    np.testing.assert_allclose(*curves, rtol=0.1)
    assert (curves[0] == curves[1]) == (precision == "tf32"), "TF32 is a GPU's; bfloat16 rounds"


def test_waiting_for_data_is_said_and_called_long_where_it_is(
    demonstrations: EpisodeStore,
    cache: FeatureCache,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = run(demonstrations, cache, tmp_path / "one", epochs=1)
    assert f"waited for data {result.data_wait:.1%} of the time" in capsys.readouterr().err
    monkeypatch.setattr(train_module, "LONG_WAIT", -1.0)
    run(demonstrations, cache, tmp_path / "two", epochs=1)
    assert "that is long: recipe.features=resident" in capsys.readouterr().err


def test_absolute_actions_are_trained_saved_and_carried_out(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path
) -> None:
    config = choice("policy", "bc_mlp", {"actions": {"representation": "absolute", "normalise": "min_max"}})
    planned = Job(demonstrations, patch_encoder(), {}, cache, config, CAMERAS, replace(RECIPE, epochs=20))
    planned.check()
    data, result = planned.data(CPU), train(planned, tmp_path, ALONE)
    policy = build_policy(config, data.shapes)
    policy.load_state_dict(load_tensors(result.checkpoint, "policy"))
    agent = Agent(patch_encoder(), policy, data.proprio, data.action, CAMERAS, representation="absolute")
    here = demonstrations.read(demonstrations.episodes[0]).proprio[3]
    target = agent.infer(observe(demonstrations, 0))
    assert target.shape == (4, 10)
    assert np.abs(target[:, :3] - here[:3]).max() < 0.15, "metres: near where the arm is"
    delta = to_delta(target, np.tile(here, (4, 1)), demonstrations.spec.action)
    assert np.isfinite(delta).all()


def test_a_finished_run_is_not_trained_again_and_another_recipe_is_refused(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path
) -> None:
    first = run(demonstrations, cache, tmp_path)
    assert run(demonstrations, cache, tmp_path) == first
    with pytest.raises(MismatchError, match="holds a run with another recipe"):
        run(demonstrations, cache, tmp_path, lr=5e-4)


def test_every_window_is_seen_once_per_epoch(demonstrations: EpisodeStore, cache: FeatureCache) -> None:
    data = load_training_data(demonstrations, patch_encoder(), cache, config(views=2), CPU)
    seen: list[float] = []
    sampler = EpochSampler(data.train, 16, seed=3, views=2)
    for step in range(len(data.train) // 16):
        batch = sampler(step)
        seen += batch.inputs.proprio[:, 0, 0].tolist()
        assert batch.inputs.tokens["agentview"].shape == (16, 1, 9, 12)
    assert len(set(seen)) > 0.9 * len(seen)
    held_out = set(data.validation.windows.episode.tolist())
    assert held_out.isdisjoint(data.train.windows.episode.tolist())


@pytest.mark.parametrize("place", ["resident", "streamed"])
def test_a_stride_trains_on_every_nth_step_and_encodes_no_other(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path, place: str
) -> None:
    horizons, sparse = Horizons(observation=2, chunk=8, execute=4), FeatureCache(tmp_path)
    lengths = [demonstrations.entry(name).steps for name in demonstrations.episodes]
    strided = config(horizons, stride=4)
    encoded = encode_for_training(demonstrations, patch_encoder(), sparse, strided)
    assert encoded.frames == sum(-(-steps // 4) for steps in lengths)
    every = load_training_data(demonstrations, patch_encoder(), cache, config(horizons), CPU)
    fourth = load_training_data(demonstrations, patch_encoder(), sparse, strided, CPU, features=place)
    for full, part in ((every.train, fourth.train), (every.validation, fourth.validation)):
        rows = np.flatnonzero(full.windows.step % 4 == 0)
        plain = np.zeros(len(rows), np.int64)
        wanted, got = full.gather(rows, plain), part.gather(np.arange(len(part)), plain)
        torch.testing.assert_close(got.inputs.tokens, wanted.inputs.tokens, rtol=0, atol=0)
        torch.testing.assert_close(got.inputs.proprio, wanted.inputs.proprio, rtol=0, atol=0)
        torch.testing.assert_close(got.action, wanted.action, rtol=0, atol=0)


def test_a_stride_that_misses_the_observations_of_a_decision_is_refused() -> None:
    with pytest.raises(
        S2RobotError, match=r"stride=3: give 1 or more, and with observation_horizon=2 a divisor of exe"
    ):
        config(Horizons(observation=2), stride=3)
    with pytest.raises(S2RobotError, match=r"stride=0 must be at least 1"):
        replace(RECIPE, stride=0)


def test_training_sees_observations_as_far_apart_as_decisions(
    demonstrations: EpisodeStore, cache: FeatureCache
) -> None:
    horizons = Horizons(observation=2, chunk=8, execute=4)
    data = load_training_data(demonstrations, patch_encoder(), cache, config(horizons), CPU)
    apart = np.diff(data.train.windows.observation, axis=1)[:, 0]
    np.testing.assert_array_equal(apart, np.minimum(data.train.windows.step, 4))


def test_a_frame_is_encoded_once_and_all_cameras_in_one_call() -> None:
    rng = np.random.default_rng(0)
    shapes = Shapes(cameras=("front", "wrist"), grid=(3, 3), channels=12, proprio=11, goal=0, action=7)
    policy = build_policy({**choice("policy", "bc_mlp"), "observation_horizon": 3}, shapes)
    encoder, calls = patch_encoder(), []
    real = encoder.encode_rows

    def counted(images: torch.Tensor, rows: int) -> Any:
        calls.append((len(images), rows))
        return real(images, rows)

    encoder.encode_rows = counted  # type: ignore[method-assign, assignment]
    unit = [Normalise((0.0,) * d, (1.0,) * d) for d in (11, 7)]
    agent = Agent(encoder, policy, *unit, cameras=shapes.cameras, rows=3)
    frames = rng.integers(0, 256, (5, 3, 2, 48, 48, 3), dtype=np.uint8)  # time step, episode, camera
    windows = [agent.new_memory() for _ in range(3)]
    for step, episodes in enumerate(frames):
        observations = [
            Observation(dict(zip(shapes.cameras, images, strict=True)), np.full(11, step, np.float32), np.zeros(0), 0.0)
            for images in episodes
        ]
        agent.infer_batch(observations, windows, [(seed, step) for seed in range(3)])
        inputs = agent.inputs(windows)
        looked_back = [max(0, step - 2), max(0, step - 1), step]
        np.testing.assert_array_equal(inputs.proprio[1, :, 0], looked_back)
        for i, camera in enumerate(shapes.cameras):
            images = torch.from_numpy(frames[looked_back, :, i].reshape(9, 48, 48, 3)).permute(0, 3, 1, 2)
            true = patch_encoder()(images).tokens.unflatten(0, (3, 3)).transpose(0, 1)
            torch.testing.assert_close(inputs.tokens[camera], true)
    assert calls == [(6, 6)] * 5


def agent_of(store: EpisodeStore, cache: FeatureCache, result: Any, policy: str, rows: int = 1) -> Agent:
    from s2robot.pipeline.checkpoint import load_tensors

    job = Job(store, patch_encoder(), {}, cache, choice("policy", policy), CAMERAS, RECIPE)
    data = job.data(CPU)
    net = build_policy(job.policy, data.shapes)
    net.load_state_dict(load_tensors(result.checkpoint, "policy"))
    return Agent(patch_encoder(), net, data.proprio, data.action, CAMERAS, rows)


def observe(store: EpisodeStore, index: int) -> Observation:
    episode = store.read(store.episodes[index])
    return Observation({"agentview": episode.images["agentview"][3]}, episode.proprio[3], episode.goal, 0.0)


def test_doubtful_episodes_are_named_before_training(
    demonstrations: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = EpisodeWriter(tmp_path, demonstrations.spec)
    episodes = [demonstrations.read(name) for name in demonstrations.episodes[:3]]
    still = np.tile(episodes[2].action[:1], (len(episodes[2]), 1))
    ids = [writer.write(episodes[0]), writer.write(replace(episodes[1], success=False, end="horizon"))]
    ids.append(writer.write(replace(episodes[2], action=still)))
    checked_episodes(EpisodeStore(tmp_path))
    told = capsys.readouterr().err
    assert f"1 of 3 episodes did not succeed and are imitated too: {ids[1]}\n" in told
    assert f"one and the same action throughout {ids[2]};" in told
