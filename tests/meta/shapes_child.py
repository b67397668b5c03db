"""The line on small random data: two cameras, two time steps, a goal, every policy. shapes_child.py FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from jaxtyping import TypeCheckError

sys.path.insert(0, str(Path(__file__).parents[2]))
from s2robot.configs import choice
from s2robot.data.episodes import EpisodeStore, EpisodeWriter
from s2robot.data.features import FeatureCache
from s2robot.encoders import Backbone, MultiscaleEncoder, multiscale_forward
from s2robot.pipeline.distributed import Group
from s2robot.pipeline.job import Job
from s2robot.pipeline.recipe import recipe_from
from s2robot.pipeline.sampler import EpochSampler
from s2robot.pipeline.train import train
from s2robot.policies.agent import Agent
from s2robot.policies.policy import ChunkPolicy, build_policy
from s2robot.types import ActionSpec, CameraSpec, DatasetSpec, Episode, Observation, ObservationSpec
from tests.policy_names import SMALL_POLICIES

PX, STEPS, CPU = 48, 20, torch.device("cpu")
CAMERAS = ("front", "wrist")


def spec() -> DatasetSpec:
    streams = tuple(CameraSpec(camera, PX, PX) for camera in CAMERAS)
    action = ActionSpec(("dx", "grip"), ("m", "1"), (-1.0,) * 2, (1.0,) * 2, "base", "delta", "none", "sign", 20.0)
    return DatasetSpec("toy", ObservationSpec(streams, ("x_m", "y_m", "z_m"), ("red", "blue")), action)


def episode(seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        images={camera: rng.integers(0, 256, (STEPS, PX, PX, 3), dtype=np.uint8) for camera in CAMERAS},
        proprio=rng.normal(size=(STEPS, 3)).astype(np.float32),
        action=rng.uniform(-1, 1, (STEPS, 2)).astype(np.float32),
        time_s=np.arange(STEPS) / 20,
        goal=np.eye(2, dtype=np.float32)[seed % 2],
        success=True,
        seed=seed,
        labels={"target_pos_w": rng.normal(size=(STEPS, 3)).astype(np.float32)},
    )


def encoder() -> MultiscaleEncoder:
    torch.manual_seed(0)
    backbone = Backbone(torch.nn.Conv2d(3, 6, 8, stride=8), "patches", patch=8)
    return MultiscaleEncoder(backbone, sizes=(24, 48), dtype="float32", device="cpu")


def line(folder: Path, name: str) -> ChunkPolicy:
    store, cache = EpisodeStore(folder / "store"), FeatureCache(folder / "cache")
    config = {**choice("policy", name), "observation_horizon": 2, "aux_weight": 0.5}
    recipe = recipe_from(config, {"epochs": 1, "batch_size": 8, "validation_fraction": 0.3})
    job = Job(store, encoder(), {}, cache, config, CAMERAS, recipe)
    job.check()
    job.encode()
    train(job, folder / name, Group(0, 1, CPU))
    data = job.data(CPU)
    policy = build_policy(config, data.shapes)
    policy.loss(EpochSampler(data.train, 8, 0, 1)(0))
    agent = Agent(encoder(), policy, data.proprio, data.action, CAMERAS, rows=2)
    first = store.read(store.episodes[0])
    images = {camera: frames[0] for camera, frames in first.images.items()}
    assert agent.infer(Observation(images, first.proprio[0], first.goal, 0.0)).shape == (config["execute"], 2)
    return policy


if __name__ == "__main__":
    place = Path(sys.argv[1])
    writer = EpisodeWriter(place / "store", spec())
    for number in range(3):
        writer.write(episode(number))
    multiscale_forward(torch.nn.Conv2d(3, 6, 8, stride=8), torch.zeros(2, 3, 48, 48), (24, 48))
    for kind in SMALL_POLICIES:
        trained = line(place, kind)
    try:
        trained.observation.pools["front_0"](torch.zeros(2, 9, 12), torch.zeros(2, 2))
    except TypeCheckError:
        print("checked")
