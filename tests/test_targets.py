"""Values of another type than a target's scalars are one clear line, before anything is built."""

from __future__ import annotations

from typing import Any

import pytest

from s2robot.errors import S2RobotError
from s2robot.targets import instantiate

ROBOT = {"_target_": "s2robot.deploy.robots.sim.SimRobot", "task": {}, "limits": {}}
ENCODER = {"_target_": "s2robot.encoders.huggingface.huggingface_encoder", "path": "embedded:x", "sizes": [112]}
POOL = {"_target_": "s2robot.policies.pools.MeanPool"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**ROBOT, "state_hz": "fast"}, r"SimRobot: state_hz='fast' is a str; allowed: float"),
        ({**ROBOT, "camera_hz": None}, r"SimRobot: camera_hz=None is a NoneType; allowed: float"),
        ({**ROBOT, "seed": 1.5}, r"SimRobot: seed=1.5 is a float; allowed: int"),
        ({**ROBOT, "seed": True}, r"SimRobot: seed=True is a bool; allowed: int"),
        ({**ENCODER, "grid": 7}, r"encoder: grid=7 is a int; allowed: a list of int or None"),
        ({**ENCODER, "sizes": [112, "a"]}, r"encoder: sizes=\[112, 'a'\] is a list; allowed: a list of int"),
        ({**ENCODER, "sizes": [112.0, 224.0]}, r"encoder: sizes=\[112.0, 224.0\] is a list; allowed: a list of int"),
    ],
)
def test_a_scalar_of_another_type_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(S2RobotError, match=message):
        instantiate(config)


def test_whole_numbers_are_floats_and_what_is_no_scalar_is_left_to_the_target() -> None:
    assert instantiate({**ROBOT, "state_hz": 50, "faults": None})._config["state_hz"] == 50
    assert instantiate({**POOL, "dim": 8}, (2, 2), 3, 0).dim == 8
