"""The bridge to ROS 2, on a stub of rclpy that carries real messages."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from s2robot.configs import choice
from s2robot.deploy.robots import ros2
from s2robot.deploy.robots.interface import RobotLost
from s2robot.deploy.robots.ros2 import Ros2Robot
from s2robot.deploy.robots.ros2_graph import rotation_columns
from s2robot.errors import S2RobotError
from tests.deploy.ros_stub import Graph, golden, install

CONFIG = choice("robot", "ros2")
PX = 240
TWIST = "/servo_node/delta_twist_cmds"


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Graph:
    monkeypatch.setattr(ros2, "FIRST_S", 1.0)
    return install(monkeypatch)


@pytest.fixture
def robot() -> Iterator[Ros2Robot]:
    made = Ros2Robot("arm", CONFIG["graph"], CONFIG["limits"])
    yield made
    made.close()


def image(encoding: str = "rgb8", height: int = PX, pad: int = 0, cut: int = 0) -> dict[str, Any]:
    channels = 4 if "a" in encoding else 3
    row = bytes(range(channels)) * PX + bytes(pad)
    stamp = {"sec": 5, "nanosec": 500_000_000}
    return {
        "header": {"stamp": stamp, "frame_id": "camera"}, "height": height, "width": PX, "encoding": encoding,
        "is_bigendian": 0, "step": len(row), "data": (row * height)[: len(row) * height - cut],
    }  # fmt: skip


def speak(graph: Graph, **changes: Any) -> None:
    """One message of every stream."""
    graph.send("/camera/image_raw", "sensor_msgs/msg/Image", changes.get("image", image()))
    names = changes.get("joints", ["panda_finger_joint1", "panda_finger_joint2", "panda_joint1"])
    speak_of_joints(graph, names, [0.04, -0.04, 1.0])
    turn = changes.get("turn", {"x": 1.0, "y": 0.0, "z": 0.0, "w": 0.0})
    place = {"x": 0.4, "y": 0.1, "z": 0.2}
    pose = {"header": image()["header"], "pose": {"position": place, "orientation": turn}}
    graph.send("/end_effector_pose", "geometry_msgs/msg/PoseStamped", pose)


def speak_of_joints(graph: Graph, names: list[str], positions: list[float]) -> None:
    header = image()["header"]
    state = {"header": header, "name": names, "position": positions, "velocity": [], "effort": []}
    graph.send("/joint_states", "sensor_msgs/msg/JointState", state)


def joint_robot() -> Ros2Robot:
    """Two joints that are sent to places, a gripper, no camera and no pose in use."""
    names = ["q1", "q2", "grip"]
    action = {
        "names": names, "units": ["rad", "rad", "sign"], "low": [-3.0, -3.0, -1.0], "high": [3.0, 3.0, 1.0],
        "frame": "joints", "mode": "absolute", "rotation": "none", "gripper": "1 closes", "rate_hz": 20.0,
    }  # fmt: skip
    axis = {"velocity": 1.0, "acceleration": 10.0, "jerk": 200.0}
    limits = {"axes": {n: axis | {"position": {"of": f"{n}_rad", "low": -3.0, "high": 3.0}} for n in names[:2]}}
    described = {
        "cameras": {}, "proprio": {"q1_rad": "joint:panda_joint1", "q2_rad": "joint:panda_finger_joint1"},
        "action": action, "pose_topic": "/end_effector_pose", "grippers": {"grip": "/grip"},
        "command": {"kind": "trajectory", "topic": "/arm", "elements": {"q1": "panda_joint1", "q2": "b"}},
    }  # fmt: skip
    return Ros2Robot("arm", described, {**limits, "grippers": ["grip"]})


JOINTS = ["panda_joint1", "panda_finger_joint1"]


def speak_soon(graph: Graph, **changes: Any) -> None:
    threading.Timer(0.1, lambda: speak(graph, **changes)).start()


def test_what_the_graph_says_arrives_in_the_policys_order(graph: Graph, robot: Ros2Robot) -> None:
    speak_soon(graph)
    info = robot.connect()
    assert info.observation.proprio[:3] == ("eef_pos_w_x_m", "eef_pos_w_y_m", "eef_pos_w_z_m")
    reading = robot.read()
    assert reading.sense.proprio == pytest.approx((0.4, 0.1, 0.2, 1, 0, 0, 0, -1, 0, 0.04, -0.04))
    assert reading.images["agentview"].shape == (PX, PX, 3)
    assert reading.images["agentview"][7, 9].tolist() == [0, 1, 2]
    sight = reading.sense.cameras["agentview"]
    assert (sight.counter, sight.stamp_s) == (1, 5.5)
    assert 0 <= time.monotonic() - sight.received_s < 1
    speak(graph)
    assert robot.read().sense.cameras["agentview"].counter == 2


@pytest.mark.parametrize(("encoding", "pixel"), [("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0]), ("bgra8", [2, 1, 0])])
def test_encodings_and_padded_rows_become_rgb(graph: Graph, robot: Ros2Robot, encoding: str, pixel: list[int]) -> None:
    speak_soon(graph, image=image(encoding, pad=5))
    robot.connect()
    assert robot.read().images["agentview"][3, 100].tolist() == pixel


def test_actions_become_speeds_of_a_twist_that_ros_can_encode(graph: Graph, robot: Ros2Robot) -> None:
    speak_soon(graph)
    robot.connect()
    robot.write((0.1, 0.0, -0.2, 0.0, 0.1, 0.0, 1.0))
    _, sent = graph.published[TWIST][-1]
    message = golden("geometry_msgs/msg/TwistStamped", sent)
    assert message.header.frame_id == "base_link"
    linear, angular = message.twist.linear, message.twist.angular
    assert (linear.x, linear.z, angular.y) == pytest.approx((0.1, -0.2, 1.0))  # 0.1 x 0.05 m at 20 Hz is 0.1 m/s
    assert golden("std_msgs/msg/Float64", graph.published["/gripper/command"][-1][1]).data == 1.0


def test_joint_targets_become_a_trajectory_of_one_point(graph: Graph) -> None:
    robot = joint_robot()
    threading.Timer(0.1, lambda: speak_of_joints(graph, JOINTS, [0.5, 0.1])).start()
    robot.connect()
    robot.write((0.51, 0.1, 0.0))
    message = golden("trajectory_msgs/msg/JointTrajectory", graph.published["/arm"][-1][1])
    assert message.joint_names == ["panda_joint1", "b"]
    assert message.points[0].positions == pytest.approx([0.51, 0.1])
    assert message.points[0].time_from_start.nanosec == 50_000_000
    robot.close()
    last = graph.published["/arm"][-1][1].points[0].positions
    assert all(map(math.isfinite, last))


@pytest.mark.parametrize("rearmed", [False, True])
def test_stopped_before_any_command_it_is_sent_nowhere(graph: Graph, rearmed: bool) -> None:
    """Where commands are places, a command that nobody gave is a motion."""
    robot = joint_robot()
    threading.Timer(0.1, lambda: speak_of_joints(graph, JOINTS, [0.5, 0.1])).start()
    robot.connect()
    if rearmed:
        robot.write((0.5, 0.1, 1.0))
        robot.stop()
        time.sleep(0.2)
        robot.connect()
        graph.published.clear()
    robot.stop()
    time.sleep(0.2)
    assert robot.read().fault == "told to stop"
    robot.write((0.6, 0.1, 1.0))
    robot.close()
    assert graph.published["/arm"] == graph.published["/grip"] == []


def test_joints_are_as_old_as_the_oldest_in_use(graph: Graph) -> None:
    robot = joint_robot()
    threading.Timer(0.1, lambda: speak_of_joints(graph, JOINTS, [0.5, 0.1])).start()
    robot.connect()
    before = robot.read()
    for names, positions in ((JOINTS[1:], [0.2]), (["another"], [1.0]), (JOINTS, [])):
        speak_of_joints(graph, names, positions)
    after = robot.read()
    assert after.sense.proprio == (0.5, 0.2)
    assert after.sense.received_s == before.sense.received_s
    assert [proprio for _, proprio in after.past] == [(0.5, 0.1), (0.5, 0.2)]
    speak_of_joints(graph, JOINTS[:1], [0.6])
    assert robot.read().sense.received_s > before.sense.received_s
    robot.close()


def test_a_stream_that_is_not_in_use_is_not_waited_for_and_never_old(graph: Graph) -> None:
    robot = joint_robot()
    threading.Timer(0.1, lambda: speak_of_joints(graph, JOINTS, [0.5, 0.1])).start()
    robot.connect()  # pose_topic is silent
    robot.close()
    poses = {name: source for name, source in CONFIG["graph"]["proprio"].items() if source.startswith("pose:")}
    posed = Ros2Robot("arm", CONFIG["graph"] | {"proprio": poses}, CONFIG["limits"])
    posed._join()
    assert "/joint_states" not in graph.listeners
    posed.close()


def test_silence_brakes_and_latches_until_connected_again(graph: Graph, robot: Ros2Robot) -> None:
    speak_soon(graph)
    robot.connect()
    for step in range(4):
        robot.write((0.05 * (step + 1), 0, 0, 0, 0, 0, 1.0))
        time.sleep(0.05)
    time.sleep(1.0)
    assert robot.read().fault == "no command came in time"
    speeds = [message.twist.linear.x for _, message in graph.published[TWIST]]
    assert speeds[3] == pytest.approx(0.2)
    after = speeds[4:]
    assert after[-1] == 0.0
    assert all(b <= a for a, b in itertools.pairwise(after))
    assert max(np.abs(np.diff([speeds[3], *after]))) <= 2.0 / 20 + 1e-9  # within the acceleration limit
    assert graph.published["/gripper/command"][-1][1].data == 1.0
    count = len(graph.published[TWIST])
    robot.write((0.1, 0, 0, 0, 0, 0, 1.0))
    assert all(m.twist.linear.x == 0.0 for _, m in graph.published[TWIST][count:])  # latched
    robot.connect()
    robot.write((0.05, 0, 0, 0, 0, 0, 1.0))
    assert graph.published[TWIST][-1][1].twist.linear.x == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joints": ["panda_finger_joint1", "other", "more"]}, "no joint panda_finger_joint2.*it has .*other"),
        ({"image": image("mono8")}, "sends mono8; allowed: rgb8"),
        ({"image": image(height=120)}, "120 x 240 px; agreed on were 240 x 240"),
        ({"image": image(cut=10)}, "no whole image"),
        ({"turn": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 0.0}}, r"pose \(/end_effector_pose\): a .* of length 0"),
    ],
)
def test_what_does_not_fit_is_named_at_connect(
    graph: Graph, robot: Ros2Robot, changes: dict[str, Any], message: str
) -> None:
    speak_soon(graph, **changes)
    with pytest.raises(S2RobotError, match=message):
        robot.connect()


def test_a_silent_graph_is_named_stream_by_stream(graph: Graph, robot: Ros2Robot) -> None:
    with pytest.raises(S2RobotError, match=r"agentview \(/camera/image_raw\), pose \(/end_effector_pose\), joints"):
        robot.connect()


def test_a_camera_that_changes_its_size_is_lost(graph: Graph, robot: Ros2Robot) -> None:
    speak_soon(graph)
    robot.connect()
    speak(graph, image=image(height=120))
    with pytest.raises(RobotLost, match="120 x 240"):
        robot.read()


def test_without_ros_the_message_says_where_it_comes_from(robot: Ros2Robot) -> None:
    with pytest.raises(S2RobotError, match="rclpy is not installed: the bridge runs inside a ROS 2"):
        robot.connect()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("proprio", "finger_left_m"), "joint", "joint:<name>"),
        (("proprio", "finger_left_m"), "pose:up", "pose:<one of"),
        (("command", "elements"), ["dx"], "six elements"),
        (("command", "elements"), ["dx", "dy", "dz", "drx", "dry", "surprise"], "surprise: no element of the action"),
        (("command", "elements"), ["dx", "dy", "dz", "drx", "dry", "dry"], "name each element of the action once"),
        (("command", "elements"), ["dx", "dy", "dz", "drx", "dry", "gripper"], "name each element of the action once"),
        (("command", "kind"), "torque", "kind is twist"),
        (("grippers",), {}, "command and grippers name dx, dy, dz, drx, dry, drz; name each element"),
        (("action", "mode"), "absolute", "kind twist needs actions of mode delta, these are absolute"),
        (
            ("command",),
            {"kind": "trajectory", "topic": "/x", "elements": {n: n for n in CONFIG["graph"]["action"]["names"][:6]}},
            "kind trajectory needs actions of mode absolute, these are delta",
        ),
        (("pose_topic",), None, "give pose_topic"),
        (("cameras", "agentview"), {"topic": "/x"}, "height"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(place: tuple[str, ...], value: Any, message: str) -> None:
    described = {key: dict(v) if isinstance(v, dict) else v for key, v in CONFIG["graph"].items()}
    inner = described
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(S2RobotError, match=message):
        Ros2Robot("arm", described, CONFIG["limits"])


def test_what_moves_is_in_metres_or_radians() -> None:
    command = CONFIG["graph"]["command"] | {"elements": ["dx", "dy", "dz", "drx", "dry", "gripper"]}
    with pytest.raises(S2RobotError, match="unit 'sign' of an action is neither m nor rad"):
        Ros2Robot("arm", CONFIG["graph"] | {"command": command, "grippers": {"drz": "/drz"}}, CONFIG["limits"])


def test_rotation_columns_are_those_of_the_matrix() -> None:
    from scipy.spatial.transform import Rotation

    for turn in Rotation.random(20, random_state=0):
        columns = np.array(rotation_columns(*turn.as_quat()))
        np.testing.assert_allclose(columns, turn.as_matrix()[:, :2].T, atol=1e-12)
