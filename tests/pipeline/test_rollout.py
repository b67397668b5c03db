"""Rollouts and evaluation: outcomes do not depend on workers, nothing finished is redone, pictures matter."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2robot.configs import choice
from s2robot.data.episodes import EpisodeStore, EpisodeWriter
from s2robot.data.features import FeatureCache
from s2robot.errors import MismatchError, S2RobotError
from s2robot.pipeline.checkpoint import load_tensors
from s2robot.pipeline.collect import demonstrate
from s2robot.pipeline.distributed import Group
from s2robot.pipeline.encode import encode
from s2robot.pipeline.evaluate import EPISODES, JOURNAL, TIMINGS, Evaluation, evaluate, load_clips, read_conduct
from s2robot.pipeline.job import Job
from s2robot.pipeline.recipe import recipe_from
from s2robot.pipeline.report.outcomes import Outcome, write_outcomes
from s2robot.pipeline.rollout import RolloutPool, rollout
from s2robot.pipeline.seeds import parse_seeds
from s2robot.pipeline.train import train
from s2robot.policies.agent import Agent
from s2robot.policies.policy import build_policy
from tests.policy_names import SMALL_POLICIES

from .conftest import CAMERAS, TASK, patch_encoder

CPU = torch.device("cpu")
Trained = Callable[[EpisodeStore, FeatureCache, Path, int], Agent]


def trained(
    store: EpisodeStore, cache: FeatureCache, out: Path, epochs: int, policy: str = "bc_mlp", **changes: Any
) -> Agent:
    """An agent on the patch encoder, trained on plain frames."""
    config = {**choice("policy", policy), **changes}
    short = {"epochs": epochs, "batch_size": 64, "warmup": 5, "save_every_s": 1e9}
    recipe = recipe_from(config, {**short, "views": 0, "validation_fraction": 0.2, "ema": False})
    job = Job(store, patch_encoder(), {}, cache, config, CAMERAS, recipe)
    result, data = train(job, out, Group(0, 1, CPU)), job.data(CPU)
    net = build_policy(config, data.shapes)
    net.load_state_dict(load_tensors(result.checkpoint, "policy"))
    return Agent(patch_encoder(), net, data.proprio, data.action, CAMERAS, rows=8)


@pytest.fixture(scope="module")
def agent(demonstrations: EpisodeStore, cache: FeatureCache, tmp_path_factory: pytest.TempPathFactory) -> Agent:
    return trained(demonstrations, cache, tmp_path_factory.mktemp("run"), epochs=20)


def what(checkpoint: str = "0" * 64) -> Evaluation:
    return Evaluation("lift", "patches", 0, checkpoint, {**TASK, "horizon": 24})


def test_outcomes_are_the_same_bytes_with_one_worker_and_two_and_after_a_resume(agent: Agent, tmp_path: Path) -> None:
    seeds = range(20000, 20003)  # each is a world to build
    for workers in (1, 2):
        with RolloutPool(what().task_config, workers) as pool:
            evaluate(what(), agent, pool, seeds, tmp_path / str(workers))
    one, two = ((tmp_path / str(w) / EPISODES).read_bytes() for w in (1, 2))
    assert one == two
    timings = [[json.loads(line) for line in (tmp_path / str(w) / TIMINGS).read_text().splitlines()] for w in (1, 2)]
    for key in ("seam", "grasp", "decisions"):
        assert [line[key] for line in timings[0]] == [line[key] for line in timings[1]]
    assert [json.loads(line)["seed"] for line in one.splitlines()] == list(seeds)
    journal = tmp_path / "2" / JOURNAL
    kept = journal.read_text().splitlines()[:2]
    journal.write_text("\n".join(kept) + "\n" + '{"seed": 2000')  # a kill tore the third line
    with RolloutPool(what().task_config, 2) as pool:
        evaluate(what(), agent, pool, seeds, tmp_path / "2")
    assert (tmp_path / "2" / EPISODES).read_bytes() == one
    assert journal.read_text().splitlines()[:2] == kept
    successes, failures = load_clips(tmp_path / "1")
    assert failures
    assert failures[0][0].shape == (48, 48, 3)
    assert len(successes) <= 3
    with pytest.raises(MismatchError, match="another checkpoint_sha256"):
        evaluate(what("1" * 64), agent, RolloutPool(what().task_config, 1), seeds, tmp_path / "2")


class Recorder(Agent):
    """Keeps the chunk of every decision by episode seed and decision."""

    def infer_batch(self, observations: Sequence[Any], memories: Any, keys: Sequence[tuple[int, int]]) -> np.ndarray:
        chunks = super().infer_batch(observations, memories, keys)
        self.chunks = {**getattr(self, "chunks", {}), **dict(zip(keys, chunks, strict=True))}
        return chunks


def test_an_episode_of_a_random_policy_does_not_depend_on_which_others_run(
    demonstrations: EpisodeStore, cache: FeatureCache, tmp_path: Path
) -> None:
    agent = trained(demonstrations, cache, tmp_path, epochs=1, policy="diffusion_unet")
    agent.__class__ = Recorder
    seen: list[dict[tuple[int, int], np.ndarray]] = []
    for seeds in ([20000, 20001, 20002], [20002]):
        agent.chunks = {}  # type: ignore[attr-defined]
        with RolloutPool(what().task_config, 1) as pool:
            list(rollout(pool, agent, seeds))
        seen.append(agent.chunks)  # type: ignore[attr-defined]
    together, alone = seen
    assert {seed for seed, _ in together} == {20000, 20001, 20002}
    assert len(alone) == 6  # decisions: 24 steps, four at a time
    for key, chunk in alone.items():
        np.testing.assert_array_equal(together[key], chunk)
    assert not np.array_equal(together[20000, 0], together[20001, 0])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "bc_mlp" else pytest.mark.slow) for name in SMALL_POLICIES]
)
def test_one_episode_can_be_overfitted_and_replayed_in_the_simulator(tmp_path: Path, name: str) -> None:
    from s2robot.envs import make_task
    from s2robot.envs.expert import ExpertConfig

    env, seed = make_task(TASK), 31
    writer = EpisodeWriter(tmp_path / "store", env.dataset_spec(CAMERAS))
    quiet = ExpertConfig(noise=0.0, miss=0.0)  # what is replayed has to lead where the recorded actions led
    episode = demonstrate(env, seed, CAMERAS, quiet)
    assert episode.success
    writer.write(episode)
    writer.write(demonstrate(env, seed + 1, CAMERAS, quiet))  # the held-out one
    env.close()
    store, cache = EpisodeStore(tmp_path / "store"), FeatureCache(tmp_path / "cache")
    encode(store, patch_encoder(), cache, CAMERAS)
    plain = choice("policy", name)
    exact = {"observation": {**plain["observation"], "token_dropout": 0.0, "proprio_noise": 0.0}}
    if "dropout" in plain["head"]:
        exact["head"] = {**plain["head"], "dropout": 0.0}
    steps = 600 if name == "bc_mlp" else 1200  # flow's five Euler steps need them: with 600 ten do
    agent = trained(store, cache, tmp_path / "run", steps, name, **exact)
    with RolloutPool(TASK, 1) as pool:
        assert [r.success for r in rollout(pool, agent, [seed])] == [True]


def test_failures_are_told_apart_by_where_the_gripper_closed(tmp_path: Path) -> None:
    grasps = [None, (0.02, 0.1), (0.1, 0.03), (0.04, None), (0.01, 0.1), (0.03, 0.2)]
    outcomes = [
        Outcome("lift", "s2", 0, seed, "ab", seed == 4, 200, "success" if seed == 4 else "horizon") for seed in range(6)
    ]
    write_outcomes(tmp_path / EPISODES, outcomes)
    told = [None if g is None else {"named_m": g[0], "other_m": g[1]} for g in grasps]
    lines = [{"seed": seed, "seam": 0.1 * seed, "grasp": grasp} for seed, grasp in enumerate(told)]
    write(tmp_path, lines)
    conduct = read_conduct(tmp_path)
    assert conduct.failures == {"missed": 3, "other": 1, "open": 1}
    assert conduct.seam == pytest.approx(0.25)
    assert conduct.sentence() == (
        "failures: 3 closed at the named object, 1 closed nearer to another, 1 never closed; 35 mm from the named one "
        "at the median"
    )
    write(tmp_path, [{"seed": 0, "seam": None}])
    assert read_conduct(tmp_path).failures == {}, "an evaluation by an earlier version says nothing"


def write(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / TIMINGS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_an_unknown_camera_reaches_the_user_as_one_line(agent: Agent) -> None:
    with RolloutPool(TASK, 1) as pool, pytest.raises(S2RobotError, match="unknown camera 'sideview'"):
        list(rollout(pool, agent, [20000], record="sideview"))


@pytest.mark.parametrize("text", ["5", "9:3", "a:b", "20000-20100", ":"])
def test_a_range_of_seeds_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(S2RobotError, match="half-open range of seeds as A:B"):
        parse_seeds(text)


class SwappedFrames(Agent):
    """Every decision sees the frames of another running episode."""

    def infer_batch(self, observations: Sequence[Any], memories: Any, keys: Sequence[tuple[int, int]]) -> np.ndarray:
        others = [*observations[1:], observations[0]]
        self._last = getattr(self, "_last", observations[0])
        if len(observations) == 1:
            others = [self._last]
        self._last = observations[0]
        swapped = [replace(own, images=other.images) for own, other in zip(observations, others, strict=True)]
        return super().infer_batch(swapped, memories, keys)


@pytest.mark.slow
def test_with_frames_swapped_between_episodes_success_falls_to_the_blind_arms(tmp_path: Path) -> None:
    from s2robot.encoders import load_encoder
    from s2robot.pipeline.agents import load_policy
    from s2robot.pipeline.collect import collect

    task = {**choice("task", "lift"), "cameras": list(CAMERAS)}
    list(collect(task, tmp_path / "store", 150, CAMERAS, 0, workers=2))
    store, cache = EpisodeStore(tmp_path / "store"), FeatureCache(tmp_path / "cache")
    rates = {}
    with RolloutPool(task, 2) as pool:
        for arm in ("base", "blind"):
            encoder = load_encoder(arm, device="cpu")
            config = choice("policy", "bc_mlp")
            recipe = recipe_from(config, {})
            job = Job(store, encoder, choice("encoder", arm), cache, config, CAMERAS, recipe)
            job.encode()
            result = train(job, tmp_path / arm, Group(0, 1, CPU))
            agent = load_policy(result.checkpoint, "cpu", rows=8)
            rates[arm] = np.mean([r.success for r in rollout(pool, agent, range(20000, 20040))])
            if arm == "base":
                agent.__class__ = SwappedFrames
                rates["swapped"] = np.mean([r.success for r in rollout(pool, agent, range(20000, 20040))])
    assert rates["base"] > 0.6
    assert rates["swapped"] <= rates["blind"] + 0.15, rates
