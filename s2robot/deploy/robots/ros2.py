"""A ROS 2 graph as a robot: images, joint states and a pose in; joint trajectories, or twists for MoveIt Servo, out.

One node, made by rclpy, which comes with a ROS 2 installation and not from the package index: run this where
`python -c "import rclpy"` works. Names of cameras, joints and topics are mapped in YAML (`configs/robot/ros2.yaml`) and
checked at `connect`. The node carries a watchdog: when the loop falls silent it brakes within the limits.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from s2robot.deploy.gate import Sense, Sight
from s2robot.deploy.limits import axes_of, parse_limits, unit_scale
from s2robot.deploy.parse import parse
from s2robot.deploy.robots.interface import Reading, RobotInfo, RobotLost
from s2robot.deploy.robots.ros2_graph import POSE, Graph, picture_of, rotation_columns
from s2robot.deploy.robots.watchdog import Watchdog
from s2robot.errors import S2RobotError
from s2robot.types import CameraSpec, ObservationSpec

PAST = 500  # readings of proprioception that are kept
FIRST_S = 10.0  # to wait for the first message of every stream


class Ros2Robot:
    """See the module. `graph` as in `Graph`, `limits` as in `configs/robot/sim.yaml`."""

    def __init__(self, name: str, graph: Mapping[str, Any], limits: Mapping[str, Any]) -> None:
        self.name = name
        self.graph = parse(Graph, dict(graph), f"graph of {name}", "see configs/robot/ros2.yaml")
        self.limits = parse_limits(limits, name)
        cameras = tuple(CameraSpec(n, c.height, c.width) for n, c in self.graph.cameras.items())
        observation = ObservationSpec(cameras, tuple(self.graph.proprio))
        self.info = RobotInfo(name, observation, self.graph.action, self.graph.camera_latency_s)
        action = self.graph.action
        axes = axes_of(self.limits, action, self.info.observation)
        self.watchdog = Watchdog(
            axes, len(action.names), 1 / action.rate_hz, self.limits.watchdog_s, absolute=action.mode == "absolute"
        )
        self._lock = threading.Lock()
        self._images: dict[str, np.ndarray] = {}
        self._sights: dict[str, Sight] = {}
        self._measured: dict[str, tuple[float, float]] = {}  # source as in `proprio` -> value, arrival (s)
        self._past: deque[tuple[float, tuple[float, ...]]] = deque(maxlen=PAST)
        self._wrong = ""
        self._node: Any = None
        self._running = False

    # A robot.

    def connect(self) -> RobotInfo:
        """Join the graph, wait for the first message of every stream. Raises S2RobotError naming what is missing."""
        if self._node is None:
            self._join()
        if not self.watchdog.rearm():
            raise S2RobotError(f"{self.name} still brakes ({self.watchdog.fault}); try again once it stands")
        deadline_s = time.monotonic() + FIRST_S
        while (missing := self._missing()) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        if missing:
            raise S2RobotError(f"{self.name}: {missing}")
        return self.info

    def read(self) -> Reading:
        """The newest message of every stream."""
        with self._lock:
            if self._node is None:
                raise RobotLost(f"{self.name} has left the graph")
            if self._wrong:
                raise RobotLost(f"{self.name}: {self._wrong}")
            arrivals_s = [self._measured[source][1] for source in self.graph.proprio.values()]
            oldest_s = min(arrivals_s, default=time.monotonic())  # nothing is old where nothing is measured
            sense = Sense(self._proprio(), oldest_s, dict(self._sights))
            return Reading(dict(self._images), sense, tuple(self._past), self.watchdog.fault)

    def write(self, command: Sequence[float]) -> None:
        """Published at once, unless the watchdog has latched."""
        with self._lock:
            if self._node is None:
                raise RobotLost(f"{self.name} has left the graph")
            if self.watchdog.command(command, time.monotonic()):
                self._publish(command)

    def stop(self) -> None:
        """The watchdog brakes and latches."""
        with self._lock:
            self.watchdog.latch("told to stop")

    def close(self) -> None:
        """Stand still first, then leave the graph."""
        if self._node is None:
            return
        self.stop()
        deadline_s = time.monotonic() + FIRST_S
        while not self.watchdog.at_rest() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        self._running = False
        for thread in self._threads:
            thread.join(2.0)
        node, self._node = self._node, None
        node.destroy_node()
        self._rclpy.shutdown()

    # The graph.

    def _join(self) -> None:
        try:
            import rclpy
            from geometry_msgs.msg import PoseStamped, TwistStamped
            from rclpy.qos import qos_profile_sensor_data
            from sensor_msgs.msg import Image, JointState
            from std_msgs.msg import Float64
            from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
        except ImportError as error:
            raise S2RobotError(
                f"{error.name} is not installed: the bridge runs inside a ROS 2 installation (source "
                "/opt/ros/<distribution>/setup.bash, with the same Python)"
            ) from error
        self._rclpy, self._types = rclpy, (TwistStamped, JointTrajectory, JointTrajectoryPoint, Float64)
        rclpy.init()
        node = rclpy.create_node("s2robot")
        for camera, stream in self.graph.cameras.items():
            node.create_subscription(Image, stream.topic, self._image_handler(camera), qos_profile_sensor_data)
        if self._uses("joint"):
            node.create_subscription(JointState, self.graph.joint_topic, self._take_joints, qos_profile_sensor_data)
        if self._uses("pose"):
            node.create_subscription(PoseStamped, self.graph.pose_topic, self._take_pose, qos_profile_sensor_data)
        out = TwistStamped if self.graph.command.kind == "twist" else JointTrajectory
        self._publisher = node.create_publisher(out, self.graph.command.topic, 1)
        self._grippers = {n: node.create_publisher(Float64, topic, 1) for n, topic in self.graph.grippers.items()}
        self._node, self._running = node, True
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._spin, self._watch)]
        for thread in self._threads:
            thread.start()

    def _spin(self) -> None:
        while self._running:
            self._rclpy.spin_once(self._node, timeout_sec=0.05)

    def _watch(self) -> None:
        """The node's own side: it goes on when the loop does not."""
        while self._running:
            with self._lock:
                braking = self.watchdog.due(time.monotonic())
                if braking is not None:
                    self._publish(braking)
            time.sleep(self.watchdog.period_s / 10)

    # What comes in.

    def _image_handler(self, camera: str) -> Callable[[Any], None]:
        counter = 0

        def take(message: Any) -> None:
            nonlocal counter
            now_s = time.monotonic()
            counter += 1
            stream = self.graph.cameras[camera]
            try:
                picture = picture_of(message, camera, stream)
            except S2RobotError as error:
                with self._lock:
                    self._wrong = str(error)
                return
            stamp_s = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
            sight = Sight(counter, stamp_s, now_s, zlib.crc32(picture.tobytes()))
            with self._lock:
                self._images[camera], self._sights[camera] = picture, sight

        return take

    def _take_joints(self, message: Any) -> None:
        self._take("joint", dict(zip(message.name, map(float, message.position), strict=False)))

    def _take_pose(self, message: Any) -> None:
        place, turn = message.pose.position, message.pose.orientation
        try:
            x, y = rotation_columns(turn.x, turn.y, turn.z, turn.w)
        except S2RobotError as error:
            with self._lock:
                self._wrong = f"pose ({self.graph.pose_topic}): {error}"
            return
        self._take("pose", dict(zip(POSE, (place.x, place.y, place.z, *x, *y), strict=True)))

    def _take(self, kind: str, values: Mapping[str, float]) -> None:
        """Each value with its own arrival: several nodes may speak on one topic, each of its own joints."""
        now_s, wanted = time.monotonic(), set(self.graph.proprio.values())
        with self._lock:
            came = {f"{kind}:{part}": (value, now_s) for part, value in values.items()}
            self._measured.update(came)
            if wanted & came.keys() and wanted <= self._measured.keys():
                self._past.append((now_s, self._proprio()))

    def _missing(self) -> str:
        with self._lock:
            if self._wrong:
                return self._wrong
            silent = [f"{c} ({s.topic})" for c, s in self.graph.cameras.items() if c not in self._images]
            joints = _parts("joint", self._measured)
            if self._uses("pose") and not _parts("pose", self._measured):
                silent.append(f"pose ({self.graph.pose_topic})")
            if self._uses("joint") and not joints:
                silent.append(f"joints ({self.graph.joint_topic})")
            if silent:
                return f"nothing came of {', '.join(silent)} within {FIRST_S:g} s; are the topics right?"
            unknown = sorted({*_parts("joint", self.graph.proprio.values())} - {*joints})
            if unknown:
                return f"no joint {', '.join(unknown)} in {self.graph.joint_topic}; it has {', '.join(joints)}"
            return ""

    def _uses(self, kind: str) -> bool:
        return bool(_parts(kind, self.graph.proprio.values()))

    def _proprio(self) -> tuple[float, ...]:
        return tuple(self._measured[source][0] for source in self.graph.proprio.values())

    # What goes out.

    def _publish(self, command: Sequence[float]) -> None:
        action, how = self.graph.action, self.graph.command
        value = dict(zip(action.names, command, strict=True))
        units = dict(zip(action.names, action.units, strict=True))
        stamp = self._node.get_clock().now().to_msg()
        twist_type, trajectory_type, point_type, float_type = self._types
        if isinstance(how.elements, list):
            message = twist_type()
            speeds = [value[n] * unit_scale(units[n]) * action.rate_hz for n in how.elements]
            for vector, part in ((message.twist.linear, speeds[:3]), (message.twist.angular, speeds[3:])):
                vector.x, vector.y, vector.z = part
        else:
            message, point = trajectory_type(), point_type()
            message.joint_names = list(how.elements.values())
            point.positions = [value[n] * unit_scale(units[n]) for n in how.elements]
            period_ns = round(1e9 / action.rate_hz)
            point.time_from_start.sec, point.time_from_start.nanosec = divmod(period_ns, 10**9)
            message.points = [point]
        message.header.stamp, message.header.frame_id = stamp, how.frame_id
        self._publisher.publish(message)
        for name, publisher in self._grippers.items():
            grip = float_type()
            grip.data = float(value[name])
            publisher.publish(grip)


def _parts(kind: str, sources: Iterable[str]) -> list[str]:
    return [source.removeprefix(f"{kind}:") for source in sources if source.startswith(f"{kind}:")]
