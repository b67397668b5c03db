"""Action representations: what a dataset stores against what a policy predicts.

Stores hold the controller's own actions, deltas of the end effector's pose. A policy may predict the target pose
itself instead (arXiv 2303.04137, section IV-C, finds that better for diffusion): position, rotation as six numbers
(arXiv 1812.07035), gripper. The robot's side turns it into a delta at every tick, from where the arm is by then.

Dims: ... any leading dimensions, p proprioception (position, rotation as six numbers, fingers).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from s2robot.data.transforms import MatrixToRot6d, Rot6dToMatrix
from s2robot.errors import S2RobotError, unknown_name
from s2robot.types import ActionSpec

REPRESENTATIONS = ("delta", "absolute")
NORMALISATIONS = ("z_score", "min_max")
POSE_NAMES = (  # with which proprioception has to begin
    *(f"eef_pos_w_{axis}_m" for axis in "xyz"),
    *(f"eef_rot6d_w_{i}" for i in range(6)),  # first two columns of the rotation matrix: no sign ambiguity
)
ABSOLUTE_NAMES = ("x", "y", "z", "r11", "r21", "r31", "r12", "r22", "r32", "gripper")


@dataclass(frozen=True)
class ActionChoice:
    """How a policy's actions are represented and normalised."""

    representation: Literal["delta", "absolute"] = "delta"
    normalise: Literal["z_score", "min_max"] = "z_score"

    def __post_init__(self) -> None:
        if self.representation not in REPRESENTATIONS:
            raise unknown_name("action representation", self.representation, REPRESENTATIONS)
        if self.normalise not in NORMALISATIONS:
            raise unknown_name("normalisation", self.normalise, NORMALISATIONS)


def absolute_spec(spec: ActionSpec) -> ActionSpec:
    """What the absolute form of a delta spec means. Raises S2RobotError for a spec that has no such form."""
    _scales(spec)
    unbounded = (np.inf,) * 9
    return replace(
        spec,
        names=ABSOLUTE_NAMES,
        units=("m",) * 3 + ("1",) * 6 + spec.units[6:],
        low=tuple(-x for x in unbounded) + spec.low[6:],
        high=unbounded + spec.high[6:],
        mode="absolute",
        rotation="rot6d",
    )


def require_pose(proprio: Sequence[str]) -> None:
    """Raise S2RobotError unless proprioception of these names begins with the pose that deltas start from."""
    if tuple(proprio[: len(POSE_NAMES)]) != POSE_NAMES:
        raise S2RobotError(
            f"absolute actions need proprioception that begins with {', '.join(POSE_NAMES)}; this store's begins with "
            f"{', '.join(proprio[: len(POSE_NAMES)])}: predict its actions as they are stored (representation: delta)"
        )


def to_absolute(
    action: Float[np.ndarray, "... 7"], proprio: Float[np.ndarray, "... p"], spec: ActionSpec
) -> Float[np.ndarray, "... 10"]:
    """Deltas, each taken where the arm was at its tick, to target poses. Raises S2RobotError as `absolute_spec`."""
    metres, radians = _scales(spec)
    here = Rot6dToMatrix()(proprio[..., 3:9].astype(np.float64))
    turn = Rotation.from_rotvec(radians * action[..., 3:6].reshape(-1, 3).astype(np.float64)).as_matrix()
    target = turn.reshape(here.shape) @ here
    position = proprio[..., :3] + metres * action[..., :3]
    return np.concatenate([position, MatrixToRot6d()(target), action[..., 6:]], axis=-1).astype(action.dtype)


def to_delta(
    target: Float[np.ndarray, "... 10"], proprio: Float[np.ndarray, "... p"], spec: ActionSpec
) -> Float[np.ndarray, "... 7"]:
    """Inverse of `to_absolute`. Not clipped: the controller's limits are its own business."""
    metres, radians = _scales(spec)
    here = Rot6dToMatrix()(proprio[..., 3:9].astype(np.float64))
    there = Rot6dToMatrix()(target[..., 3:9].astype(np.float64))
    turn = (there @ here.swapaxes(-1, -2)).reshape(-1, 3, 3)
    rotation = Rotation.from_matrix(turn).as_rotvec().reshape(*target.shape[:-1], 3) / radians
    position = (target[..., :3] - proprio[..., :3]) / metres
    return np.concatenate([position, rotation, target[..., 9:]], axis=-1).astype(target.dtype)


def _scales(spec: ActionSpec) -> tuple[float, float]:
    """Metres and radians of one unit of a delta action."""
    scales = [_number(unit, "m") for unit in spec.units[:3]] + [_number(unit, "rad") for unit in spec.units[3:6]]
    alike = len(scales) == 6 and len(set(scales[:3])) == len(set(scales[3:])) == 1 and min(scales) > 0
    if not alike or (spec.mode, spec.rotation, len(spec.names)) != ("delta", "axis_angle", 7):
        raise S2RobotError(
            f"actions ({', '.join(spec.names)}) in ({', '.join(spec.units)}) have no absolute form; needed are three "
            "deltas of position in '<number> m', three of an axis-angle rotation in '<number> rad', the numbers alike, "
            "and a gripper"
        )
    return scales[0], scales[3]


def _number(unit: str, of: str) -> float:
    """The number in "0.05 m"; 0 for anything else."""
    found = re.fullmatch(rf"(\d+(?:\.\d+)?(?:e-?\d+)?) {of}", unit)
    return float(found[1]) if found else 0.0
