"""Small real things for the pipeline: a store of rendered lift demonstrations and an encoder with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from s2robot.configs import choice
from s2robot.data.episodes import EpisodeStore
from s2robot.data.features import FeatureCache
from s2robot.encoders.backbone import Backbone
from s2robot.encoders.encoder import MultiscaleEncoder
from s2robot.pipeline.collect import collect
from s2robot.pipeline.distributed import Group
from s2robot.pipeline.encode import encode
from s2robot.pipeline.job import Job
from s2robot.pipeline.recipe import recipe_from

TASK = {**choice("task", "lift"), "frame_px": 48, "cameras": ["agentview"]}
CAMERAS = ("agentview",)
ALONE = Group(0, 1, torch.device("cpu"))

SHORT = {"epochs": 4, "batch_size": 32, "warmup": 2, "validation_fraction": 0.2, "save_every_s": 1e9, "views": 1}


def patch_encoder(seed: int = 0) -> MultiscaleEncoder:
    """One random linear layer per 8 px patch, two scales: quick, and different frames give different tokens."""
    torch.manual_seed(seed)
    model = torch.nn.Conv2d(3, 6, 8, stride=8)
    return MultiscaleEncoder(Backbone(model, f"patches{seed}", patch=8), sizes=(24, 48), dtype="float32", device="cpu")


def job(store: EpisodeStore, cache: FeatureCache, **recipe: Any) -> Job:
    """bc_mlp on the patches, for four epochs unless `recipe` says otherwise."""
    policy = choice("policy", "bc_mlp")
    return Job(store, patch_encoder(), {}, cache, policy, CAMERAS, recipe_from(policy, SHORT | recipe))


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """Six lift demonstrations at 48 px."""
    folder = tmp_path_factory.mktemp("demonstrations") / "store"
    list(collect(TASK, folder, 6, CAMERAS, 0, workers=0))
    return EpisodeStore(folder)


@pytest.fixture(scope="session")
def cache(demonstrations: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """Their features by `patch_encoder(0)`: plain and two shifted views."""
    filled = FeatureCache(tmp_path_factory.mktemp("cache"))
    encode(demonstrations, patch_encoder(), filled, CAMERAS, views=range(3))
    return filled


def lines(path: Path) -> list[dict]:  # type: ignore[type-arg]
    """Parsed JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]
