"""A bundle of a tiny random encoder and policy, written by the real exporter: what the robot's side is tested with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from s2robot.configs import choice
from s2robot.data.transforms import Normalise
from s2robot.deploy.bundle import MANIFEST, POLICY, Decisions, Identity, Manifest
from s2robot.deploy.check import CHECK, Check
from s2robot.deploy.export.graph import PolicyGraph, write_encoder, write_policy
from s2robot.deploy.export.parity import TOLERANCES, torch_tokens
from s2robot.encoders.backbone import Backbone
from s2robot.encoders.encoder import MultiscaleEncoder
from s2robot.policies.batch import Shapes
from s2robot.policies.policy import build_policy
from s2robot.storage import sha256_file, write_json
from s2robot.types import ActionSpec, CameraSpec, ObservationSpec

PX = 32
OBSERVATION = ObservationSpec((CameraSpec("front", PX, PX),), ("x_m", "y_m", "grip_m"), ("left", "right"))
ACTION = ActionSpec(
    names=("dx", "dy", "gripper"), units=("0.05 m", "0.05 m", "sign"), low=(-1.0,) * 3, high=(1.0,) * 3, frame="base",
    mode="delta", rotation="none", gripper="1 closes", rate_hz=20.0,
)  # fmt: skip
SHAPES = Shapes(("front",), (2, 2), 8, 3, 2, 3, 2)


def tiny_encoder() -> MultiscaleEncoder:
    torch.manual_seed(0)
    backbone = Backbone(nn.Conv2d(3, 4, 8, 8), "tiny", patch=8, architecture={"name": "tiny"})
    return MultiscaleEncoder(backbone, sizes=(16, 32), dtype="float32", device="cpu")


def write_bundle(
    folder: Path,
    policy: str = "bc_mlp",
    checkpoint: str = "0" * 64,
    observation: ObservationSpec = OBSERVATION,
    action: ActionSpec = ACTION,
    task_config: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """`folder` itself. Frames are squares of at least 32 px from one camera."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    config = choice("policy", policy, changes or {})
    camera, sizes = observation.cameras[0], (len(observation.proprio), len(action.names))
    shapes = replace(SHAPES, cameras=(camera.name,), proprio=sizes[0], goal=len(observation.goal), action=sizes[1])
    built = build_policy(config, shapes)
    encoder = tiny_encoder()
    write_encoder(encoder, camera, folder / "encoder.onnx")
    frames = np.random.default_rng(0).integers(0, 256, (2, camera.height, camera.width, 3), np.uint8)
    tokens = np.stack([torch_tokens(encoder, frame) for frame in frames])
    Check({camera.name: frames}, {camera.name: tokens}, TOLERANCES["float32"].features).write(folder / CHECK)
    normalise = (Normalise((0.0,) * size, (1.0,) * size) for size in sizes)
    write_policy(PolicyGraph(built, *normalise, (camera.name,)), shapes, folder / POLICY)
    manifest = Manifest(
        kind="bundle", version=1, task="tiny", task_config=dict(task_config or {}), policy=policy, precision="float32",
        identity=Identity(observation, action, "1" * 64, checkpoint),
        decisions=Decisions(built.observation_horizon, built.chunk, built.execute, None, "delta"),
        encoders={camera.name: "encoder.onnx"}, encoder=encoder.spec(), licence="none", versions={}, parity={},
        files={file.name: sha256_file(file) for file in sorted(folder.iterdir())},
    )  # fmt: skip
    write_json(folder / MANIFEST, manifest.to_json())
    return folder
