"""Deltas and target poses say the same, and the arm goes where a target pose says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from s2robot.configs import choice
from s2robot.data.actions import ActionChoice, absolute_spec, require_pose, to_absolute, to_delta
from s2robot.envs import make_task
from s2robot.envs.task import ACTION_SPEC, PROPRIO_NAMES
from s2robot.errors import S2RobotError


def poses(rows: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    rotation = Rotation.random(rows, random_state=1).as_matrix()
    parts = [rng.normal(size=(rows, 3)), rotation[..., 0], rotation[..., 1], rng.normal(size=(rows, 2))]
    return np.concatenate(parts, axis=1).astype(np.float32)


def test_absolute_actions_are_undone_by_their_inverse() -> None:
    rng = np.random.default_rng(2)
    proprio, delta = poses(200), rng.uniform(-1, 1, (200, 7)).astype(np.float32)
    target = to_absolute(delta, proprio, ACTION_SPEC)
    assert target.shape == (200, len(absolute_spec(ACTION_SPEC).names))
    np.testing.assert_allclose(to_delta(target, proprio, ACTION_SPEC), delta, atol=2e-5)
    np.testing.assert_allclose(target[:, :3] - proprio[:, :3], 0.05 * delta[:, :3], atol=1e-6)


def test_the_arm_goes_to_a_target_pose_and_stays() -> None:
    env = make_task({**choice("task", "lift"), "frame_px": 32})
    env.reset(seed=3)
    here, turn = env.eef_pos_w(), Rotation.from_rotvec([0.1, -0.15, 0.4]).as_matrix()
    goal, rotation = here + np.array([0.06, -0.08, 0.05]), turn @ env.eef_rot_w()
    target = np.concatenate([goal, rotation[:, 0], rotation[:, 1], [-1.0]]).astype(np.float32)
    env.step_chunk(np.tile(target, (40, 1)), "absolute")
    assert np.linalg.norm(env.eef_pos_w() - goal) < 0.01  # of 11 cm; the controller is compliant
    assert Rotation.from_matrix(env.eef_rot_w() @ rotation.T).magnitude() < 0.05
    env.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "absolute"}, "have no absolute form; needed are three deltas of position"),
        ({"rotation": "none"}, "have no absolute form"),
        ({"units": ("5 cm",) * 3 + ("0.5 rad",) * 3 + ("sign",)}, r"in \(5 cm, .* have no absolute form"),
        ({"units": ("0.05 m", "0.1 m", "0.2 m") + ("0.5 rad",) * 3 + ("sign",)}, "the numbers alike"),
        ({"units": ("0.05 m",) * 3 + ("10 deg",) * 3 + ("sign",)}, "have no absolute form"),
        ({"units": ("",) * 7}, "have no absolute form"),
        ({"units": ("m",) * 7}, r"in \(m, m, m, m, m, m, m\) have no absolute form"),
    ],
)
def test_a_spec_without_an_absolute_form_is_refused(change: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(S2RobotError, match=message):
        absolute_spec(replace(ACTION_SPEC, **change))


def test_an_unknown_choice_names_the_known_ones() -> None:
    with pytest.raises(
        S2RobotError, match="unknown action representation 'absolut'; known: absolute, delta; did you mean"
    ):
        ActionChoice("absolut")  # type: ignore[arg-type]
    with pytest.raises(S2RobotError, match="unknown normalisation 'minmax'"):
        ActionChoice(normalise="minmax")  # type: ignore[arg-type]


def test_deltas_that_start_from_no_known_pose_have_no_absolute_form() -> None:
    require_pose(PROPRIO_NAMES)
    for names in (PROPRIO_NAMES[:8], ("joint_0_rad", *PROPRIO_NAMES)):
        with pytest.raises(S2RobotError, match=r"begins with eef_pos_w_x_m, .*: predict its actions as"):
            require_pose(names)
