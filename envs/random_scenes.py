"""Domain-randomised tabletop frames with the simulator's own labels: what the embedded encoders are trained on.

Nothing here is a task's scene: objects, sizes, colours, cameras and lights are drawn anew for every frame, from
seeds that start where the tasks' seeds end (1,000,000). A third-person camera stands at random; the wrist camera, in
15 % of the frames, hangs where the hand is, with its pose and its angle of view jittered.

Dims: h w image (px), n objects.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Bool, Float16, Float32, UInt8
from robosuite.models.objects import BallObject, BoxObject, CapsuleObject, CylinderObject

from s2robot.envs.renderer import LeanRenderer
from s2robot.envs.world import TABLE_HEIGHT_M, TableWorld
from s2robot.errors import S2RobotError

FIRST_SEED = 1_000_000
BACKGROUND, TABLE, ROBOT, FIRST_OBJECT = 0, 1, 2, 3
KINDS = ("box",) * 6 + ("cylinder",) * 3 + ("ball",) * 2 + ("capsule",) * 1
NUM_OBJECTS = len(KINDS)
KIND_NAMES = ("box", "cylinder", "ball", "capsule")
HIDDEN = np.array([0.0, 0.0, -5.0])  # objects that a frame leaves out wait under the floor
CAMERA = "frontview"  # the camera that is moved about; no task looks through it
WRIST_CAMERA = "robot0_eye_in_hand"


@dataclass(frozen=True)
class Scene:
    """One frame and its labels.

    `code` is 0 background, 1 table, 2 robot, 3 + i for object i. `centre_px` holds the projected object centres
    (x right, y down; px), NaN for objects that the frame leaves out. `albedo` is RGB in [0, 1], before light.
    `kind` indexes KIND_NAMES; `size_m` is the longest extent; `yaw_rad` is about the vertical, NaN for what has none or
    floats; `lifted` objects do not touch the table. No pre-training uses these four.
    """

    rgb: UInt8[np.ndarray, "h w 3"]
    code: UInt8[np.ndarray, "h w"]
    depth_m: Float16[np.ndarray, "h w"]
    centre_px: Float32[np.ndarray, "n 2"]
    albedo: Float32[np.ndarray, "n 3"]
    kind: UInt8[np.ndarray, " n"]
    size_m: Float32[np.ndarray, " n"]
    yaw_rad: Float32[np.ndarray, " n"]
    lifted: Bool[np.ndarray, " n"]


class SceneGenerator:
    """Draws `scene(seed)`: the same seed gives the same frame in any process and any order."""

    def __init__(self, frame_px: int = 224) -> None:
        makers = {"box": BoxObject, "cylinder": CylinderObject, "ball": BallObject, "capsule": CapsuleObject}
        half = {"box": [0.02] * 3, "cylinder": [0.02] * 2, "ball": [0.02], "capsule": [0.02] * 2}
        objects = [makers[kind](name=f"object{i}", size=half[kind], rgba=[1, 1, 1, 1]) for i, kind in enumerate(KINDS)]
        self._world = TableWorld(objects)
        self._world.reset()
        self.model: mujoco.MjModel = self._world.sim.model._model
        self.data: mujoco.MjData = self._world.sim.data._data
        self._renderer = LeanRenderer(self.model, frame_px, frame_px)
        self.frame_px = frame_px
        self._qpos0 = self.data.qpos.copy()
        self._geoms = [_geoms_of(self.model, f"object{i}_") for i in range(NUM_OBJECTS)]
        self._joints = [self.model.joint(f"object{i}_joint0").qposadr[0] for i in range(NUM_OBJECTS)]
        self._table_geom = self.model.geom("table_visual").id
        self._background_geoms = [*_geoms_of(self.model, "wall_"), self.model.geom("floor").id]
        self._geom_code = np.full(self.model.ngeom + 1, BACKGROUND, np.uint8)  # the last entry serves geom id -1
        self._geom_code[self._table_geom] = TABLE
        for prefix in ("robot0_", "gripper0_", "fixed_mount0_"):
            self._geom_code[_geoms_of(self.model, prefix)] = ROBOT
        for i, geoms in enumerate(self._geoms):
            self._geom_code[geoms] = FIRST_OBJECT + i
        self._wrist = self.model.camera(WRIST_CAMERA).id
        self._wrist_pose = (self.model.cam_pos[self._wrist].copy(), self.model.cam_quat[self._wrist].copy())

    def scene(self, seed: int) -> Scene:
        """Raises S2RobotError for a seed that belongs to the tasks."""
        if seed < FIRST_SEED:
            raise S2RobotError(f"seed {seed} belongs to the tasks; pre-training frames start at {FIRST_SEED}")
        rng = np.random.default_rng(seed)
        self.data.qpos[:] = self._qpos0
        self._pose_robot(rng)
        self._size_m = np.zeros(NUM_OBJECTS, np.float32)
        self._yaw_rad = np.full(NUM_OBJECTS, np.nan, np.float32)
        self._lifted = np.zeros(NUM_OBJECTS, bool)
        wrist = rng.random() < 0.15
        albedo, present = self._scatter_objects(rng, self._below_hand() if wrist else rng.uniform(-0.12, 0.12, 2))
        self._paint_room(rng)
        self._light(rng)
        mujoco.mj_forward(self.model, self.data)
        camera = self._place_wrist_camera(rng) if wrist else self._place_room_camera(rng)
        mujoco.mj_forward(self.model, self.data)
        frame = self._renderer.render_labelled(self.data, camera)
        return Scene(
            rgb=frame.rgb,
            code=self._geom_code[frame.geom_id],
            depth_m=np.minimum(frame.depth_m, 8.0).astype(np.float16),
            centre_px=self._project(camera, present),
            albedo=albedo,
            kind=np.array([KIND_NAMES.index(kind) for kind in KINDS], np.uint8),
            size_m=self._size_m,
            yaw_rad=self._yaw_rad,
            lifted=self._lifted,
        )

    def _pose_robot(self, rng: np.random.Generator) -> None:
        indexes = self._world.robots[0]._ref_joint_pos_indexes
        self.data.qpos[indexes] = self._qpos0[indexes] + rng.uniform(-0.45, 0.45, len(indexes))
        opening_m = rng.uniform(0.0, 0.04)
        left, right = self._world.robots[0]._ref_gripper_joint_pos_indexes["right"]
        self.data.qpos[left], self.data.qpos[right] = opening_m, -opening_m

    def _below_hand(self) -> np.ndarray:
        mujoco.mj_forward(self.model, self.data)
        return self.data.site_xpos[self._world.robots[0].eef_site_id["right"], :2].copy()

    def _scatter_objects(self, rng: np.random.Generator, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = rng.integers(1, NUM_OBJECTS + 1)
        present = np.zeros(NUM_OBJECTS, bool)
        present[rng.permutation(NUM_OBJECTS)[:count]] = True
        albedo = np.zeros((NUM_OBJECTS, 3), np.float32)
        spread_m = rng.uniform(0.06, 0.3)  # from tight clutter to the whole table
        for i, kind in enumerate(KINDS):
            address = self._joints[i]
            if not present[i]:
                self.data.qpos[address : address + 3] = HIDDEN
                continue
            half_m = np.exp(rng.uniform(np.log(0.005), np.log(0.035), 3))  # 1 cm to 7 cm across
            if kind == "box" and rng.random() < 0.5:
                half_m[:] = half_m[0]
            self._resize(i, kind, half_m)
            albedo[i] = colorsys.hsv_to_rgb(rng.random(), rng.beta(2, 1), rng.uniform(0.15, 1.0))
            for geom in self._geoms[i]:
                self.model.geom_rgba[geom] = [*albedo[i], 1.0]
            place = np.clip(middle + rng.uniform(-spread_m, spread_m, 2), -0.36, 0.36)
            height_m = half_m[2] if kind in ("box",) else half_m[1] if kind == "cylinder" else half_m[0]
            lifted = rng.random() < 0.15
            z_m = TABLE_HEIGHT_M + height_m + (rng.uniform(0.0, 0.25) if lifted else 0.0)
            yaw_rad = np.nan if lifted else rng.uniform(-np.pi, np.pi)
            quat = rng.normal(size=4) if lifted else _yaw_quat(yaw_rad)
            self._lifted[i], self._size_m[i] = lifted, _longest_m(kind, half_m)
            self._yaw_rad[i] = yaw_rad if kind == "box" else np.nan
            self.data.qpos[address : address + 3] = [*place, z_m]
            self.data.qpos[address + 3 : address + 7] = quat / np.linalg.norm(quat)
        return albedo, present

    def _resize(self, index: int, kind: str, half_m: np.ndarray) -> None:
        size = {"box": half_m, "cylinder": [half_m[0], half_m[1], 0], "ball": [half_m[0], 0, 0]}.get(
            kind, [half_m[0], half_m[1], 0]
        )
        for geom in self._geoms[index]:
            self.model.geom_size[geom] = size

    def _paint_room(self, rng: np.random.Generator) -> None:
        for geom, keep in [(self._table_geom, 0.3), *((g, 0.5) for g in self._background_geoms)]:
            textured = rng.random() < keep
            self.model.geom_matid[geom] = rng.integers(self.model.nmat) if textured else -1
            value = rng.uniform(0.55, 1.0) if textured or rng.random() < 0.4 else rng.uniform(0.05, 1.0)
            self.model.geom_rgba[geom, :3] = colorsys.hsv_to_rgb(rng.random(), rng.beta(1, 3), value)

    def _light(self, rng: np.random.Generator) -> None:
        self.model.light_dir[0] = [rng.uniform(-1, 1), rng.uniform(-1, 1), -1.0]
        self.model.light_diffuse[0] = rng.uniform(0.2, 1.0) * rng.uniform(0.85, 1.0, 3)
        self.model.light_specular[0] = rng.uniform(0.0, 0.5)
        self.model.vis.headlight.ambient[:] = rng.uniform(0.15, 0.5)
        self.model.vis.headlight.diffuse[:] = rng.uniform(0.2, 0.7)

    def _place_wrist_camera(self, rng: np.random.Generator) -> str:
        position, quat = self._wrist_pose
        self.model.cam_pos[self._wrist] = position + rng.normal(0, 0.01, 3)
        tilted = quat + rng.normal(0, 0.03, 4)
        self.model.cam_quat[self._wrist] = tilted / np.linalg.norm(tilted)
        self.model.cam_fovy[self._wrist] = rng.uniform(60, 90)
        return WRIST_CAMERA

    def _place_room_camera(self, rng: np.random.Generator) -> str:
        index = self.model.camera(CAMERA).id
        target = np.array([0.0, 0.0, TABLE_HEIGHT_M]) + rng.uniform(-0.12, 0.12, 3) * [1, 1, 0.5]
        azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(25, 80))
        if rng.random() < 0.6:
            azimuth = rng.uniform(-0.9, 0.9)  # in front of the robot, where most third-person cameras stand
        distance_m = rng.uniform(0.5, 1.1)
        offset = [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
        self.model.cam_pos[index] = target + distance_m * np.array(offset)
        self.model.cam_quat[index] = _look_at_quat(-np.array(offset), roll_rad=rng.normal(0, 0.06))
        self.model.cam_fovy[index] = rng.uniform(35, 60)
        return CAMERA

    def _project(self, camera: str, present: np.ndarray) -> np.ndarray:
        index = self.model.camera(camera).id
        focal_px = 0.5 * self.frame_px / np.tan(0.5 * np.radians(self.model.cam_fovy[index]))
        rotation = self.data.cam_xmat[index].reshape(3, 3)
        centres = np.full((NUM_OBJECTS, 2), np.nan, np.float32)
        for i in np.flatnonzero(present):
            body = self.model.body(f"object{i}_main").id
            x, y, z = rotation.T @ (self.data.xpos[body] - self.data.cam_xpos[index])  # camera looks along -z, y up
            if z < -0.01:
                centres[i] = [0.5 * self.frame_px - focal_px * x / z, 0.5 * self.frame_px + focal_px * y / z]
        return centres


def _geoms_of(model: mujoco.MjModel, prefix: str) -> list[int]:
    """Ids of all geoms whose body or own name starts with `prefix`."""
    owner = [model.body(model.geom_bodyid[g]).name for g in range(model.ngeom)]
    return [g for g in range(model.ngeom) if owner[g].startswith(prefix) or model.geom(g).name.startswith(prefix)]


def _longest_m(kind: str, half_m: np.ndarray) -> float:
    """Longest extent: the edge of a box, diameter or length of a round body."""
    if kind == "box":
        return 2 * float(half_m.max())
    if kind == "ball":
        return 2 * float(half_m[0])
    length_m = 2 * float(half_m[1]) + (2 * float(half_m[0]) if kind == "capsule" else 0.0)
    return max(2 * float(half_m[0]), length_m)


def _yaw_quat(yaw_rad: float) -> np.ndarray:
    return np.array([np.cos(yaw_rad / 2), 0.0, 0.0, np.sin(yaw_rad / 2)])


def _look_at_quat(forward: np.ndarray, roll_rad: float) -> np.ndarray:
    """Quaternion (w, x, y, z) of a camera whose -z axis points along `forward` and whose y axis points up."""
    z = -forward / np.linalg.norm(forward)
    x = np.cross([0.0, 0.0, 1.0], z)
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    x, y = np.cos(roll_rad) * x + np.sin(roll_rad) * y, -np.sin(roll_rad) * x + np.cos(roll_rad) * y
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.stack([x, y, z], axis=1).ravel())
    return quat
