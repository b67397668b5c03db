"""What of a ROS 2 graph makes a robot, by name, and what its messages say.

Dims: h w frame (px).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from s2robot.deploy.limits import unit_scale
from s2robot.errors import S2RobotError
from s2robot.types import ActionSpec

NORM_TOLERANCE = 0.01  # of a quaternion; one that nobody filled in is all zeros
POSE = (*(f"pos_{axis}_m" for axis in "xyz"), *(f"rot6d_{i}" for i in range(6)))
CHANNELS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)}


@dataclass(frozen=True)
class Camera:
    """A topic of sensor_msgs/Image, and the size that it delivers."""

    topic: str
    height: int
    width: int


@dataclass(frozen=True)
class Command:
    """What is published: `twist` (geometry_msgs/TwistStamped for MoveIt Servo: `elements` are vx vy vz wx wy wz) or
    `trajectory` (trajectory_msgs/JointTrajectory with one point: `elements` maps an action element to its joint). A
    twist takes displacements (mode delta), a trajectory takes places (mode absolute).
    """

    kind: str
    topic: str
    elements: dict[str, str] | list[str]
    frame_id: str = ""

    def __post_init__(self) -> None:
        wanted = {"twist": list, "trajectory": dict}
        if self.kind not in wanted or not isinstance(self.elements, wanted[self.kind]):
            raise ValueError("kind is twist with a list of six elements, or trajectory with a map of element to joint")
        if self.kind == "twist" and len(self.elements) != 6:
            raise ValueError("a twist has six elements: vx vy vz wx wy wz")


@dataclass(frozen=True)
class Graph:
    """The names of a graph.

    Args:
        cameras: camera of the policy -> its topic.
        proprio: every element in order -> where it comes from: `joint:<name>`, or `pose:<part>` with a part of POSE.
        action: what the robot is commanded in; every element goes out once, with `command` or with `grippers`.
        command: how motion is published.
        grippers: action element -> topic of std_msgs/Float64.
        joint_topic: of sensor_msgs/JointState.
        pose_topic: of geometry_msgs/PoseStamped, where proprioception has any of it.
        camera_latency_s: from a picture's capture to its arrival here.
    """

    cameras: dict[str, Camera]
    proprio: dict[str, str]
    action: ActionSpec
    command: Command
    grippers: dict[str, str] = field(default_factory=dict)
    joint_topic: str = "/joint_states"
    pose_topic: str | None = None
    camera_latency_s: float = 0.0

    def __post_init__(self) -> None:
        for name, source in self.proprio.items():
            kind, _, part = source.partition(":")
            if kind not in ("joint", "pose") or not part or (kind == "pose" and part not in POSE):
                raise ValueError(f"{name} comes from {source!r}; give joint:<name> or pose:<one of {', '.join(POSE)}>")
        if any(source.startswith("pose:") for source in self.proprio.values()) and self.pose_topic is None:
            raise ValueError("proprioception has parts of the pose; give pose_topic")
        unknown = {*self.command.elements, *self.grippers} - {*self.action.names}
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))}: no element of the action ({', '.join(self.action.names)})")
        named = [*self.command.elements, *self.grippers]
        if sorted(named) != sorted(self.action.names):
            raise ValueError(
                f"command and grippers name {', '.join(named)}; name each element of the action once: "
                f"{', '.join(self.action.names)}"
            )
        mode = {"twist": "delta", "trajectory": "absolute"}[self.command.kind]
        if self.action.mode != mode:
            raise ValueError(f"kind {self.command.kind} needs actions of mode {mode}, these are {self.action.mode}")
        for name in self.command.elements:
            unit_scale(self.action.units[self.action.names.index(name)])  # raises for what is neither m nor rad


def picture_of(message: Any, camera: str, stream: Camera) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of a sensor_msgs/Image. Raises S2RobotError for another size or encoding than was agreed on."""
    if message.encoding not in CHANNELS:
        raise S2RobotError(f"camera {camera} sends {message.encoding}; allowed: {', '.join(CHANNELS)}")
    if (message.height, message.width) != (stream.height, stream.width):
        raise S2RobotError(
            f"camera {camera} sends {message.height} x {message.width} px; "
            f"agreed on were {stream.height} x {stream.width}"
        )
    channels = 4 if "a" in message.encoding else 3
    rows = np.frombuffer(bytes(message.data), np.uint8)
    if message.step < channels * message.width or len(rows) != message.step * message.height:
        raise S2RobotError(
            f"camera {camera} sends {len(rows)} bytes in rows of {message.step}, which is no whole image"
        )
    pixels = rows.reshape(message.height, message.step)[:, : channels * message.width]
    picture = pixels.reshape(message.height, message.width, channels)
    return np.ascontiguousarray(picture[..., list(CHANNELS[message.encoding])])


def rotation_columns(
    x: float, y: float, z: float, w: float
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """The first two columns of a unit quaternion's rotation matrix. Raises S2RobotError where it is none."""
    norm = math.hypot(x, y, z, w)
    if not abs(norm - 1) <= NORM_TOLERANCE:  # nor where it is not finite
        raise S2RobotError(f"a quaternion of length {norm:g} came; give one of length 1")
    first = (1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w))
    second = (2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w))
    return first, second
