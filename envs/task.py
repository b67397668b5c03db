"""The Gymnasium environment around a robosuite world: one episode of one tabletop task.

The base environment observes proprioception, goal and time; frames are asked for with `frames(cameras)`, so that a
policy which executes four actions pays for one frame. `PixelObservation(env)` is the ordinary image environment.

Dims: h w frame height and width (px), p proprioception, g goal, a action, t steps of a chunk, m goals.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, Float64, Int64, UInt8

from s2robot.data.actions import POSE_NAMES, to_delta
from s2robot.envs.renderer import RENDERER_SETTINGS, LeanRenderer
from s2robot.envs.world import CONTROL_RATE_HZ, LiftWorld, TableWorld
from s2robot.errors import S2RobotError, unknown_name
from s2robot.types import ActionSpec, CameraSpec, DatasetSpec, EndReason, Grasp, Observation, ObservationSpec

CAMERAS = ("agentview", "robot0_eye_in_hand")

PROPRIO_NAMES = (*POSE_NAMES, "finger_left_m", "finger_right_m")

ACTION_SPEC = ActionSpec(
    names=("dx", "dy", "dz", "drx", "dry", "drz", "gripper"),
    units=("0.05 m",) * 3 + ("0.5 rad",) * 3 + ("sign",),
    low=(-1.0,) * 7,
    high=(1.0,) * 7,
    frame="robot base",
    mode="delta",
    rotation="axis_angle",
    gripper="-1 opens, 1 closes, within +-0.2 holds",
    rate_hz=CONTROL_RATE_HZ,
)


GRIPPER_DEAD_BAND = 0.2


@dataclass(frozen=True)
class StepResult:
    """What `step_chunk` reports: how many actions were executed and, once the episode is over, why."""

    executed: int
    end: EndReason | None

    @property
    def success(self) -> bool:
        """True when the episode ended because the task was done."""
        return self.end == "success"


class TabletopTask(gymnasium.Env[dict[str, np.ndarray], np.ndarray], ABC):
    """A Panda at a table. Deterministic by seed: `reset(seed=s)` depends on `s` alone, not on what came before.

    Subclasses build the world, place its objects, name the goal and say when the task is done.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": CONTROL_RATE_HZ}  # noqa: RUF012
    goal_names: tuple[str, ...] = ()

    def __init__(self, name: str, horizon: int, frame_px: int, cameras: Sequence[str] = CAMERAS) -> None:
        for camera in cameras:
            if camera not in CAMERAS:
                raise unknown_name("camera", camera, CAMERAS)
        if horizon < 1 or frame_px < 16:
            raise S2RobotError(f"horizon={horizon}, frame_px={frame_px}: need at least 1 step and 16 px")
        self.name, self.horizon, self.frame_px, self.cameras = name, horizon, frame_px, tuple(cameras)
        self.render_mode = "rgb_array"
        self.world = self._build_world()
        self.world.reset()
        self.model, self.data = self.world.sim.model._model, self.world.sim.data._data
        self.robot = self.world.robots[0]
        self._eef_site = self.robot.eef_site_id["right"]
        self._fingers = self.robot._ref_gripper_joint_pos_indexes["right"]
        self._renderer: LeanRenderer | None = None  # made at the first frame: state-only users need no GL
        self.goal = np.zeros(len(self.goal_names), np.float32)
        self.steps = 0
        self.end: EndReason | None = None
        self.grasp: Grasp | None = None  # of this episode, the nearest to an object: privileged
        self._closing = False
        self.action_space = spaces.Box(-1.0, 1.0, (len(ACTION_SPEC.names),), np.float32)
        self.observation_space: spaces.Space[Any] = spaces.Dict(
            {
                "proprio": spaces.Box(-np.inf, np.inf, (len(PROPRIO_NAMES),), np.float32),
                "goal": spaces.Box(0.0, 1.0, (len(self.goal_names),), np.float32),
                "time_s": spaces.Box(0.0, np.inf, (1,), np.float64),
            }
        )

    # What a task defines.

    @abstractmethod
    def _build_world(self) -> LiftWorld | TableWorld:
        """Make the robosuite world, once."""

    @abstractmethod
    def _start_episode(self, rng: np.random.Generator) -> None:
        """Place objects and choose the goal; the world has just been reset."""

    @abstractmethod
    def is_success(self) -> bool:
        """Is the task done in the present state?"""

    @abstractmethod
    def target_pos_w(self) -> Float64[np.ndarray, "3"]:
        """Centre of the object that the goal names (m, world): privileged, for experts and labels only."""

    @abstractmethod
    def target_width_m(self) -> float:
        """Edge of that object: privileged."""

    @abstractmethod
    def target_yaw_rad(self) -> float:
        """Yaw of that object about the vertical: privileged."""

    @abstractmethod
    def goal_bodies(self) -> list[int]:
        """Body id of the object that each goal would name, one where nothing is named: privileged."""

    # Gymnasium.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode. Returns the observation and `info` with the hash of the initial state."""
        super().reset(seed=seed)
        self.world.seed_episode(self.np_random)
        self.world.reset()
        self.robot.gripper["right"].current_action = np.zeros(1)  # robosuite keeps the last episode's command
        self._start_episode(self.np_random)
        self.world.sim.forward()
        self.steps, self.end, self.grasp, self._closing = 0, None, None, False
        return self._observe(), {"initial_state_sha256": self.state_sha256()}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """One control tick (50 ms). Reward 1 on success. `info["end"]` says `success` or `horizon` at the end."""
        taken = checked_action(action)
        if taken[-1]:  # neither opens nor closes otherwise
            if taken[-1] > 0 and not self._closing:
                grasp = self._grasp()
                if self.grasp is None or grasp.nearest_m < self.grasp.nearest_m:
                    self.grasp = grasp
            self._closing = bool(taken[-1] > 0)
        self.world.advance(taken)
        self.steps += 1
        if self.is_success():
            self.end = "success"
        elif self.steps >= self.horizon:
            self.end = "horizon"
        success = self.end == "success"
        info = {"success": success} | ({"end": self.end} if self.end else {})
        return self._observe(), float(success), success, self.end == "horizon", info

    def step_chunk(self, actions: Float32[np.ndarray, "t a"], representation: str = "delta") -> StepResult:
        """Execute actions until they are spent or the episode ends.

        Absolute ones (`data.actions`) are target poses: each becomes a delta from where the arm is at its own tick.
        """
        for executed, action in enumerate(actions, start=1):
            if representation == "absolute":
                action = to_delta(action, self._observe()["proprio"], ACTION_SPEC)
            self.step(action)
            if self.end:
                return StepResult(executed, self.end)
        return StepResult(len(actions), None)

    def render(self) -> UInt8[np.ndarray, "h w 3"]:
        """The first camera's frame (Gymnasium's `rgb_array`)."""
        return self.frames(self.cameras[:1])[self.cameras[0]]

    def close(self) -> None:
        """Free the GL context and the simulation."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self.world.close()

    # What policies and the data store read.

    def frames(self, cameras: Sequence[str]) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
        """Frames of the present state. Raises S2RobotError for a camera that the task was not built with."""
        return {camera: self._camera_renderer(camera).render(self.data, camera) for camera in cameras}

    def observe(self, cameras: Sequence[str]) -> Observation:
        """The contract's observation with the frames of `cameras`."""
        state, time_s = self._observe(), float(self.data.time)
        captures = {camera: (self.steps, time_s) for camera in cameras}
        return Observation(self.frames(cameras), state["proprio"], state["goal"], time_s, captures)

    def sim_state(self) -> Float64[np.ndarray, " s"]:
        """Time, positions and velocities: enough to draw the frame again at any size."""
        return np.concatenate([[self.data.time], self.data.qpos, self.data.qvel])

    def state_sha256(self) -> str:
        """Identity of the present state with its goal; equal hashes pair episodes across arms."""
        return hashlib.sha256(self.sim_state().tobytes() + self.goal.tobytes()).hexdigest()

    def labels(self) -> dict[str, np.ndarray]:
        """Privileged per-step labels that no policy sees."""
        return {"target_pos_w": self.target_pos_w().astype(np.float32)}

    def goal_positions_w(self) -> Float64[np.ndarray, "m 3"]:
        """Centre of the object that each goal would name (m, world): privileged."""
        return self.data.xpos[self.goal_bodies()]

    def goal_pixels(self, camera: str) -> Int64[np.ndarray, " m"]:
        """How many pixels of the camera's frame show the object that each goal would name: privileged."""
        geoms = self._camera_renderer(camera).render_labelled(self.data, camera).geom_id
        bodies = self.model.geom_bodyid[geoms[geoms >= 0]]
        return np.array([np.count_nonzero(bodies == body) for body in self.goal_bodies()])

    def dataset_spec(self, cameras: Sequence[str]) -> DatasetSpec:
        """What a store of this task's episodes declares."""
        streams = tuple(CameraSpec(camera, self.frame_px, self.frame_px) for camera in cameras)
        return DatasetSpec(
            task=self.name,
            observation=ObservationSpec(streams, PROPRIO_NAMES, self.goal_names),
            action=ACTION_SPEC,
            renderer=dict(RENDERER_SETTINGS),
            source="scripted expert",
        )

    def _camera_renderer(self, camera: str) -> LeanRenderer:
        if camera not in self.cameras:
            raise unknown_name("camera", camera, self.cameras)
        if self._renderer is None:
            self._renderer = LeanRenderer(self.model, self.frame_px, self.frame_px)
        return self._renderer

    # For experts (privileged).

    def eef_pos_w(self) -> Float64[np.ndarray, "3"]:
        """End-effector (grip site) position, m, world."""
        return self.data.site_xpos[self._eef_site].copy()

    def eef_rot_w(self) -> Float64[np.ndarray, "3 3"]:
        """End-effector orientation, world."""
        return self.data.site_xmat[self._eef_site].reshape(3, 3).copy()

    def _grasp(self) -> Grasp:
        here, target = self.eef_pos_w(), self.target_pos_w()
        others = [position for position in self.goal_positions_w() if not np.allclose(position, target)]
        distances = [float(np.linalg.norm(here - position)) for position in (target, *others)]
        return Grasp(distances[0], min(distances[1:], default=None))

    def finger_opening_m(self) -> float:
        """Distance between the fingers: 0 closed, 0.08 open."""
        left, right = self.data.qpos[self._fingers]
        return float(left - right)

    def finger_speed_m_s(self) -> float:
        """How fast the opening changes (absolute)."""
        left, right = self.data.qvel[self.robot._ref_gripper_joint_vel_indexes["right"]]
        return float(abs(left - right))

    def finger_room_m(self, yaw_rad: float) -> float:
        """Free space (m) for a finger on either side of the target at hand yaw `yaw_rad`, at most 4 cm."""
        return 0.04

    def _observe(self) -> dict[str, np.ndarray]:
        rotation = self.eef_rot_w()
        proprio = np.concatenate([self.eef_pos_w(), rotation[:, 0], rotation[:, 1], self.data.qpos[self._fingers]])
        return {
            "proprio": proprio.astype(np.float32),
            "goal": self.goal.copy(),
            "time_s": np.array([max(self.data.time, 0.0)]),
        }


def checked_action(action: Sequence[float] | np.ndarray) -> Float64[np.ndarray, " a"]:
    """An action as the world takes it. Raises S2RobotError unless it is finite and has the right length."""
    given = np.asarray(action, np.float64)
    if given.shape != (len(ACTION_SPEC.names),) or not np.isfinite(given).all():
        raise S2RobotError(f"action {given!r}: need {len(ACTION_SPEC.names)} finite numbers in [-1, 1]")
    taken = np.clip(given, -1.0, 1.0)
    if abs(taken[-1]) < GRIPPER_DEAD_BAND:
        taken[-1] = 0.0  # robosuite takes the sign alone, so any policy's "hold" would move at full speed
    return taken


class PixelObservation(gymnasium.ObservationWrapper[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]):
    """The ordinary image environment: a frame of every camera at every step, under `images/<camera>` keys."""

    def __init__(self, env: TabletopTask) -> None:
        super().__init__(env)
        self._task = env
        frame = spaces.Box(0, 255, (env.frame_px, env.frame_px, 3), np.uint8)
        inner = env.observation_space
        assert isinstance(inner, spaces.Dict)
        self.observation_space: spaces.Space[Any] = spaces.Dict(
            {**inner.spaces, **{f"images/{c}": frame for c in env.cameras}}
        )

    def observation(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Add the frames of the present state."""
        frames = self._task.frames(self._task.cameras)
        return {**observation, **{f"images/{camera}": frame for camera, frame in frames.items()}}
