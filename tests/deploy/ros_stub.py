"""Stands in for rclpy: topics are lists of callbacks, messages those of the ROS 2 definitions, through CDR and back.

Message definitions are the public ones of sensor_msgs, geometry_msgs, trajectory_msgs and std_msgs; `golden` encodes a
message by them and decodes it again, so that the bridge sees what a graph would deliver.
"""

from __future__ import annotations

import io
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from mcap_ros2.writer import Writer

BREAK = "\n" + "=" * 80 + "\n"
TIME = "MSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec"
HEADER = f"MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id{BREAK}{TIME}"
VECTOR = "MSG: geometry_msgs/Vector3\nfloat64 x\nfloat64 y\nfloat64 z"
DEFINITIONS = {
    "sensor_msgs/msg/Image": "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\n"
    f"uint8 is_bigendian\nuint32 step\nuint8[] data{BREAK}{HEADER}",
    "sensor_msgs/msg/JointState": "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\n"
    f"float64[] effort{BREAK}{HEADER}",
    "geometry_msgs/msg/PoseStamped": f"std_msgs/Header header\ngeometry_msgs/Pose pose{BREAK}{HEADER}{BREAK}"
    "MSG: geometry_msgs/Pose\ngeometry_msgs/Point position\ngeometry_msgs/Quaternion orientation"
    f"{BREAK}MSG: geometry_msgs/Point\nfloat64 x\nfloat64 y\nfloat64 z"
    f"{BREAK}MSG: geometry_msgs/Quaternion\nfloat64 x\nfloat64 y\nfloat64 z\nfloat64 w",
    "geometry_msgs/msg/TwistStamped": f"std_msgs/Header header\ngeometry_msgs/Twist twist{BREAK}{HEADER}{BREAK}"
    f"MSG: geometry_msgs/Twist\ngeometry_msgs/Vector3 linear\ngeometry_msgs/Vector3 angular{BREAK}{VECTOR}",
    "trajectory_msgs/msg/JointTrajectory": "std_msgs/Header header\nstring[] joint_names\n"
    f"trajectory_msgs/JointTrajectoryPoint[] points{BREAK}{HEADER}{BREAK}"
    "MSG: trajectory_msgs/JointTrajectoryPoint\nfloat64[] positions\nfloat64[] velocities\nfloat64[] accelerations\n"
    f"float64[] effort\nbuiltin_interfaces/Duration time_from_start{BREAK}"
    "MSG: builtin_interfaces/Duration\nint32 sec\nuint32 nanosec",
    "std_msgs/msg/Float64": "float64 data",
}


def golden(kind: str, message: Any) -> Any:
    """`message` (nested dictionaries or objects) as a subscriber gets it. Fails where its definition says otherwise."""
    buffer = io.BytesIO()
    writer = Writer(buffer)
    writer.write_message("/x", writer.register_msgdef(kind, DEFINITIONS[kind]), message)
    writer.finish()
    buffer.seek(0)
    reader = make_reader(buffer, decoder_factories=[DecoderFactory()])
    return next(iter(reader.iter_decoded_messages()))[3]


def _stamp() -> SimpleNamespace:
    return SimpleNamespace(sec=0, nanosec=0)


def _header() -> SimpleNamespace:
    return SimpleNamespace(stamp=_stamp(), frame_id="")


def _vector() -> SimpleNamespace:
    return SimpleNamespace(x=0.0, y=0.0, z=0.0)


MESSAGES: dict[str, Callable[[], SimpleNamespace]] = {
    "geometry_msgs.msg.TwistStamped": lambda: SimpleNamespace(
        header=_header(), twist=SimpleNamespace(linear=_vector(), angular=_vector())
    ),
    "trajectory_msgs.msg.JointTrajectory": lambda: SimpleNamespace(header=_header(), joint_names=[], points=[]),
    "trajectory_msgs.msg.JointTrajectoryPoint": lambda: SimpleNamespace(
        positions=[], velocities=[], accelerations=[], effort=[], time_from_start=_stamp()
    ),
    "std_msgs.msg.Float64": lambda: SimpleNamespace(data=0.0),
    "sensor_msgs.msg.Image": SimpleNamespace,
    "sensor_msgs.msg.JointState": SimpleNamespace,
    "geometry_msgs.msg.PoseStamped": SimpleNamespace,
}


class Graph:
    """Who listens where, and what was published."""

    def __init__(self) -> None:
        self.listeners: dict[str, Callable[[Any], None]] = {}
        self.published: dict[str, list[tuple[float, Any]]] = defaultdict(list)

    def send(self, topic: str, kind: str, message: Any) -> None:
        self.listeners[topic](golden(kind, message))

    # rclpy's node.

    def create_subscription(self, kind: Any, topic: str, callback: Callable[[Any], None], qos: Any) -> None:
        self.listeners[topic] = callback

    def create_publisher(self, kind: Any, topic: str, depth: int) -> Any:
        return SimpleNamespace(publish=lambda message: self.published[topic].append((time.monotonic(), message)))

    def get_clock(self) -> Any:
        now = SimpleNamespace(to_msg=lambda: SimpleNamespace(sec=1, nanosec=2))
        return SimpleNamespace(now=lambda: now)

    def destroy_node(self) -> None:
        self.listeners.clear()


def install(monkeypatch: pytest.MonkeyPatch) -> Graph:
    """A graph behind `import rclpy`."""
    graph = Graph()
    rclpy = ModuleType("rclpy")
    rclpy.__dict__.update(
        init=lambda: None, shutdown=lambda: None, create_node=lambda name: graph,
        spin_once=lambda node, timeout_sec: time.sleep(0.01),
    )  # fmt: skip
    qos = ModuleType("rclpy.qos")
    qos.__dict__["qos_profile_sensor_data"] = object()
    modules = {"rclpy": rclpy, "rclpy.qos": qos}
    for name, build in MESSAGES.items():
        package, _, kind = name.rpartition(".")
        module = modules.setdefault(package, ModuleType(package))
        module.__dict__[kind] = build
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return graph
