"""The lines without frozen features: pixels go through the same store, cache, windows and agent."""

from __future__ import annotations

import pytest
import torch

from s2robot.configs import choice
from s2robot.encoders import load_encoder
from s2robot.errors import S2RobotError
from s2robot.pipeline.fit import Schedule, TrainState, fit
from s2robot.policies.batch import Batch, Inputs, Shapes
from s2robot.policies.end_to_end import PixelObservation
from s2robot.policies.policy import build_policy

SHAPES = Shapes(cameras=("front",), grid=(84, 84), channels=3, proprio=3, goal=0, action=2)


def observation() -> PixelObservation:
    torch.manual_seed(0)
    found = build_policy(choice("policy", "resnet_bc"), SHAPES).observation
    assert isinstance(found, PixelObservation)
    return found


def places(rows: int, steps: int) -> torch.Tensor:
    """Frames whose first two channels are the row and the column of a pixel."""
    y, x = torch.meshgrid(torch.arange(84.0), torch.arange(84.0), indexing="ij")
    return torch.stack([y, x, torch.zeros(84, 84)]).expand(rows, steps, 3, 84, 84)


def test_training_crops_anew_for_every_sample_and_alike_over_its_time_steps() -> None:
    crops = observation().train()._cropped(places(32, 2)).unflatten(0, (32, 2))
    corners = crops[:, :, :2, 0, 0]
    assert (corners[:, 0] == corners[:, 1]).all()
    assert len({tuple(corner) for corner in corners[:, 0].tolist()}) > 16
    assert corners.min() >= 0
    assert corners.max() <= 84 - 76
    assert (crops[:, :, 0, 75, 0] - crops[:, :, 0, 0, 0] == 75).all()
    assert (crops[:, :, 1, 0, 75] - crops[:, :, 1, 0, 0] == 75).all()


def test_acting_sees_the_middle() -> None:
    crops = observation().eval()._cropped(places(1, 1))
    assert crops[0, :2, 0, 0].tolist() == [4, 4]


def test_features_of_a_frozen_encoder_are_refused() -> None:
    with pytest.raises(S2RobotError, match="this policy is trained from pixels; give encoder=pixels"):
        build_policy(choice("policy", "resnet_bc"), Shapes(("front",), (7, 7), 384, 3, 0, 2, 2))


FRAME = Shapes(cameras=("front",), grid=(224, 224), channels=3, proprio=3, goal=0, action=2)


def test_adapters_begin_as_the_encoder_and_train_beside_its_weights() -> None:
    torch.manual_seed(0)
    policy = build_policy(choice("policy", "lora_bc"), FRAME)
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    pixels = load_encoder("pixels", device="cpu", size=224)(images).tokens.unsqueeze(1)
    adapted = policy.observation._adapted(pixels).squeeze(1)
    frozen = load_encoder("s2", device="cpu", dtype="float32")(images).tokens
    assert (adapted - frozen).abs().max() < 1e-4 * frozen.abs().max()
    unpooled = build_policy(choice("policy", "lora_bc", {"observation": {"encoder": "s2_unpooled"}}), FRAME)
    frozen = load_encoder("s2_unpooled", device="cpu", dtype="float32")(images).tokens
    assert (unpooled.observation._adapted(pixels).squeeze(1) - frozen).abs().max() < 1e-4 * frozen.abs().max()
    before = {key: value.clone() for key, value in policy.observation.vision.state_dict().items()}

    def batches(step: int) -> Batch:
        inputs = Inputs({"front": pixels.half()}, torch.zeros(2, 1, 3), torch.zeros(2, 0))
        return Batch(inputs, torch.ones(2, policy.chunk, 2), torch.ones(2, policy.chunk, dtype=torch.bool))

    list(fit(policy.loss, batches, TrainState.create(policy, Schedule(1e-3, 2), seed=0, weight_decay=0.1)))
    after = policy.observation.vision.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == {key for key in before if "lora_" in key}
    assert sum("lora_A" in key for key in moved) == 12 * 6  # query, key, value, output and both layers of the MLP


def test_adapters_want_pixels_and_a_transformer() -> None:
    with pytest.raises(S2RobotError, match=r"adapts vit_tiny_112 from pixels; give encoder=pixels encoder\.size=224"):
        build_policy(choice("policy", "lora_bc"), SHAPES)
    with pytest.raises(S2RobotError, match="encoder 'blind' has no transformer"):
        build_policy(choice("policy", "lora_bc", {"observation": {"encoder": "blind"}}), FRAME)
