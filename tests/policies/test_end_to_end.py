"""The line without frozen features: pixels go through the same store, cache, windows and agent."""

from __future__ import annotations

import pytest
import torch

from s2robot.configs import choice
from s2robot.errors import S2RobotError
from s2robot.policies.batch import Shapes
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
