"""Domain-randomised tabletop frames with the simulator's own labels: what the embedded encoders are trained on.

Nothing here is a task's scene: objects, sizes, colours, textures, cameras and lights are drawn anew for every frame,
from seeds that start where the tasks' seeds end (1,000,000). A third-person camera stands at random; the wrist camera,
in 15 % of the frames, hangs where the hand is, with its pose and its angle of view jittered.

Dims: h w image (px), n objects, k robot keypoints.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Bool, Float16, Float32, UInt8

from s2robot.envs.renderer import LeanRenderer
from s2robot.envs.scene_objects import HELD_OUT_KINDS, KIND_NAMES, NO_ALBEDO, draw_hue, dress, stock
from s2robot.envs.world import TABLE_HEIGHT_M, TableWorld
from s2robot.errors import S2RobotError

GENERATOR_VERSION = 4  # raised whenever a seed would give another frame than before
FIRST_SEED = 1_000_000
BACKGROUND, TABLE, ROBOT, FIRST_OBJECT = 0, 1, 2, 3
ITEMS = stock()
NUM_OBJECTS = len(ITEMS)
MOST_OBJECTS = 12  # in one frame
HIDDEN = np.array([0.0, 0.0, -5.0])  # objects that a frame leaves out wait under the floor
CAMERA = "frontview"  # the camera that is moved about; no task looks through it
WRIST_CAMERA = "robot0_eye_in_hand"
KEYPOINTS = ("robot0_link2", "robot0_link4", "robot0_link6", "robot0_right_hand", "gripper0_right_leftfinger",
             "gripper0_right_rightfinger")  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """One frame and its labels.

    `code` is 0 background, 1 table, 2 robot, 3 + i for object i. `centre_px` holds the projected object centres
    (x right, y down; px), NaN for objects that the frame leaves out; `robot_px` those of the robot's KEYPOINTS and of
    its grip site. `albedo` is RGB in [0, 1], before light, NaN where a texture decides. `kind` indexes KIND_NAMES;
    `size_m` is the longest extent; `yaw_rad` is about the vertical, NaN for what has none or floats; `lifted` objects
    do not touch the table. No pre-training uses these four.
    """

    rgb: UInt8[np.ndarray, "h w 3"]
    code: UInt8[np.ndarray, "h w"]
    depth_m: Float16[np.ndarray, "h w"]
    centre_px: Float32[np.ndarray, "n 2"]
    robot_px: Float32[np.ndarray, "k 2"]
    albedo: Float32[np.ndarray, "n 3"]
    kind: UInt8[np.ndarray, " n"]
    size_m: Float32[np.ndarray, " n"]
    yaw_rad: Float32[np.ndarray, " n"]
    lifted: Bool[np.ndarray, " n"]


class SceneGenerator:
    """Draws `scene(seed)`: the same seed gives the same frame in any process and any order.

    `held_out=False` leaves out the held-out kinds and hues (scene_objects.py); `held_out=True` shows all kinds,
    coloured in the held-out hues alone.
    """

    def __init__(self, frame_px: int = 224, held_out: bool = False) -> None:
        objects = [item.build() for item in ITEMS]
        self._world = TableWorld(objects)
        self._world.reset()
        self.model: mujoco.MjModel = self._world.sim.model._model
        self.data: mujoco.MjData = self._world.sim.data._data
        self._renderer = LeanRenderer(self.model, frame_px, frame_px)
        self.frame_px, self.held_out = frame_px, held_out
        self._allowed = [i for i, item in enumerate(ITEMS) if held_out or item.kind not in HELD_OUT_KINDS]
        self._qpos0 = self.data.qpos.copy()
        self._geoms = [_geoms_of(self.model, f"{item.name}_") for item in ITEMS]
        self._bodies = [_main_body(self.model, item.name) for item in ITEMS]
        self._joints = [int(self.model.jnt_qposadr[self.model.body_jntadr[body]]) for body in self._bodies]
        self._keypoints = [self.model.body(name).id for name in KEYPOINTS]
        self._grip_site = self._world.robots[0].eef_site_id["right"]
        textured = np.flatnonzero((self.model.mat_texid >= 0).any(axis=1))
        self._materials = [int(m) for m in textured if not self.model.mat(m).name.startswith("object")]  # no labels
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
        wrist = rng.random() < 0.15
        labels = self._scatter_objects(rng, self._below_hand() if wrist else rng.uniform(-0.12, 0.12, 2))
        self._paint_room(rng)
        self._light(rng)
        self._move()
        camera = self._place_wrist_camera(rng) if wrist else self._place_room_camera(rng)
        self._move()
        frame = self._renderer.render_labelled(self.data, camera)
        centres_w = np.where(labels.pop("present")[:, None], self.data.xpos[self._bodies], np.nan)
        robot_w = np.concatenate([self.data.xpos[self._keypoints], self.data.site_xpos[[self._grip_site]]])
        return Scene(
            rgb=frame.rgb,
            code=self._geom_code[frame.geom_id],
            depth_m=np.minimum(frame.depth_m, 8.0).astype(np.float16),
            centre_px=self._project(camera, centres_w),
            robot_px=self._project(camera, robot_w),
            kind=np.array([KIND_NAMES.index(item.kind) for item in ITEMS], np.uint8),
            **labels,
        )

    def _pose_robot(self, rng: np.random.Generator) -> None:
        indexes = self._world.robots[0]._ref_joint_pos_indexes
        self.data.qpos[indexes] = self._qpos0[indexes] + rng.uniform(-0.45, 0.45, len(indexes))
        opening_m = rng.uniform(0.0, 0.04)
        left, right = self._world.robots[0]._ref_gripper_joint_pos_indexes["right"]
        self.data.qpos[left], self.data.qpos[right] = opening_m, -opening_m

    def _move(self) -> None:
        """Bring bodies, cameras and lights to where `qpos` puts them; contacts, the costly part, matter to no frame."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def _below_hand(self) -> np.ndarray:
        self._move()
        return self.data.site_xpos[self._world.robots[0].eef_site_id["right"], :2].copy()

    def _scatter_objects(self, rng: np.random.Generator, middle: np.ndarray) -> dict[str, np.ndarray]:
        """Place some of the objects; labels of all of them, and which are `present`."""
        present = np.zeros(NUM_OBJECTS, bool)
        present[rng.permutation(self._allowed)[: rng.integers(1, MOST_OBJECTS + 1)]] = True
        albedo = np.tile(NO_ALBEDO, (NUM_OBJECTS, 1))
        size_m, yaw_rad = np.zeros(NUM_OBJECTS, np.float32), np.full(NUM_OBJECTS, np.nan, np.float32)
        lifted = np.zeros(NUM_OBJECTS, bool)
        spread_m = rng.uniform(0.06, 0.3)  # from tight clutter to the whole table
        for i, (item, address) in enumerate(zip(ITEMS, self._joints, strict=True)):
            if not present[i]:
                self.data.qpos[address : address + 3] = HIDDEN
                continue
            look = dress(item, self.model, self._geoms[i], self._materials, rng, self.held_out)
            albedo[i], size_m[i], lifted[i] = look.albedo, look.size_m, rng.random() < 0.15
            place = np.clip(middle + rng.uniform(-spread_m, spread_m, 2), -0.36, 0.36)
            z_m = TABLE_HEIGHT_M + look.half_height_m + (rng.uniform(0.02, 0.25) if lifted[i] else 0.0)
            turn_rad = rng.uniform(-np.pi, np.pi)
            tumbled = lifted[i] and rng.random() < 0.5  # half of those in the air stand: a tilt does not give them away
            quat = rng.normal(size=4) if tumbled else _yaw_quat(turn_rad)
            if item.kind == "box" and not lifted[i]:
                yaw_rad[i] = turn_rad
            self.data.qpos[address : address + 3] = [*place, z_m]
            self.data.qpos[address + 3 : address + 7] = quat / np.linalg.norm(quat)
        return {"present": present, "albedo": albedo, "size_m": size_m, "yaw_rad": yaw_rad, "lifted": lifted}

    def _paint_room(self, rng: np.random.Generator) -> None:
        for geom, keep in [(self._table_geom, 0.3), *((g, 0.5) for g in self._background_geoms)]:
            textured = rng.random() < keep
            self.model.geom_matid[geom] = rng.choice(self._materials) if textured else -1
            value = rng.uniform(0.55, 1.0) if textured or rng.random() < 0.4 else rng.uniform(0.05, 1.0)
            hue = draw_hue(rng, held_out=False)
            self.model.geom_rgba[geom, :3] = colorsys.hsv_to_rgb(hue, rng.beta(1, 3), value)

    def _light(self, rng: np.random.Generator) -> None:
        self.model.light_dir[0] = [rng.uniform(-1, 1), rng.uniform(-1, 1), -1.0]
        self.model.light_diffuse[0] = rng.uniform(0.2, 1.0) * rng.uniform(0.85, 1.0, 3)
        self.model.light_specular[0] = rng.uniform(0.0, 0.5)
        self.model.mat_specular[:] = rng.uniform(0.0, 0.8, self.model.nmat)
        self.model.mat_shininess[:] = rng.uniform(0.0, 1.0, self.model.nmat)
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

    def _project(self, camera: str, points_w: np.ndarray) -> Float32[np.ndarray, "m 2"]:
        """Pixels (x right, y down) of points in the world (m); NaN for NaN and for what lies behind the camera."""
        index = self.model.camera(camera).id
        focal_px = 0.5 * self.frame_px / np.tan(0.5 * np.radians(self.model.cam_fovy[index]))
        rotation = self.data.cam_xmat[index].reshape(3, 3)
        x, y, z = ((points_w - self.data.cam_xpos[index]) @ rotation).T  # the camera looks along -z, y up
        with np.errstate(invalid="ignore"):
            z = np.where(z < -0.01, z, np.nan)
        pixels = 0.5 * self.frame_px + focal_px * np.stack([-x / z, y / z], axis=1)
        return pixels.astype(np.float32)


def _main_body(model: mujoco.MjModel, name: str) -> int:
    """The body that the object's free joint moves."""
    [body] = [b for b in range(model.nbody) if model.body(b).name.startswith(f"{name}_") and model.body_jntnum[b] == 1]
    return body


def _geoms_of(model: mujoco.MjModel, prefix: str) -> list[int]:
    """Ids of all geoms whose body or own name starts with `prefix`."""
    owner = [model.body(model.geom_bodyid[g]).name for g in range(model.ngeom)]
    return [g for g in range(model.ngeom) if owner[g].startswith(prefix) or model.geom(g).name.startswith(prefix)]


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
