"""A scripted expert: P control on privileged positions, with noise on what is executed and retries after a miss.

The label is the expert's clean action, the executed one carries AR(1) noise (DART, arXiv 1703.09327), so that
demonstrations show how to come back from where a policy's own errors lead. Noise alone never leads to the worst of
them, closed fingers with nothing between: a policy that misses lifts the air and has seen no state like it. So some
demonstrations carry out a miss, while the label goes on saying what to do about it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from s2robot.envs.task import TabletopTask
from s2robot.envs.world import TABLE_HEIGHT_M

POSITION_GAIN = 20.0  # actions per metre: full speed from 5 cm, one action unit being 5 cm
ROTATION_GAIN = 2.0  # actions per radian, one action unit being 0.5 rad
OPEN, HOLD, CLOSE = -1.0, 0.0, 1.0
CLOSING, LIFTING = 9, 6  # steps of a miss


@dataclass(frozen=True)
class ExpertConfig:
    """Heights and tolerances (m), phases (steps) and noise (action units).

    `noise` is the stationary standard deviation of the AR(1) process on the executed translation; rotation gets a
    tenth of it, because a tilted gripper seldom recovers. `miss` is the share of demonstrations that begin with a miss:
    fingers closed up to `miss_aside_m` beside the object and clear of its top, then lifted by up to `miss_lift_m`.
    """

    hover_m: float = 0.07
    aligned_m: float = 0.008
    aligned_rad: float = 0.12
    grasp_below_centre_m: float = 0.003
    lowest_m: float = 0.009
    noise: float = 0.2
    noise_correlation: float = 0.8
    noise_near_object: float = 0.3
    close_patience: int = 20
    descend_patience: int = 20
    ample_room_m: float = 0.035
    preshape_m: float = 0.014
    miss: float = 0.35
    miss_aside_m: float = 0.025
    miss_clear_m: float = 0.02
    miss_lift_m: float = 0.12


@dataclass
class Miss:
    """A miss under way: closing at `place_w` for CLOSING steps, then up by `lift_m`."""

    place_w: Float64[np.ndarray, "3"]
    lift_m: float
    steps: int = 0

    def act(self, eef_w: Float64[np.ndarray, "3"]) -> tuple[Float64[np.ndarray, "3"], bool]:
        """Move (action units) and whether this was the last of it."""
        self.steps += 1
        above = self.lift_m * np.array([0.0, 0.0, float(self.steps > CLOSING)])
        move = POSITION_GAIN * (self.place_w + above - eef_w)
        return move, self.steps >= CLOSING + LIFTING


class GraspExpert:
    """Hover over the named object, descend, close until the finger width says it is held, lift; retry after a miss."""

    def __init__(self, task: TabletopTask, config: ExpertConfig, rng: np.random.Generator) -> None:
        self.task, self.config, self.rng = task, config, rng
        self.phase = "approach"
        self._closing = self._descending = 0
        self._noise = np.zeros(6)
        self._will_miss = rng.random() < config.miss
        self._miss: Miss | None = None
        self._face: int | None = (
            None  # which of the four cube faces the hand turns to; kept until a retry, or ties would flip it
        )

    def act(self) -> tuple[Float64[np.ndarray, "7"], Float64[np.ndarray, "7"]]:
        """The clean action (the label) and the noisy one (to execute)."""
        target = self._waypoint()
        move = POSITION_GAIN * (target - self.task.eef_pos_w())
        turn = ROTATION_GAIN * self._rotation_error()
        gripper = CLOSE if self.phase in ("close", "lift") else self._preshape()
        clean = np.concatenate([move, turn, [gripper]])
        executed = clean.copy()
        if self._miss is not None:
            executed[:3], over = self._miss.act(self.task.eef_pos_w())
            executed[-1] = CLOSE
            self._miss = None if over else self._miss
        clean, executed = np.clip(clean, -1.0, 1.0), np.clip(executed, -1.0, 1.0)
        return clean, np.clip(executed + self._draw_noise(), -1.0, 1.0)

    def _waypoint(self) -> Float64[np.ndarray, "3"]:
        """Advance the phase and return the end-effector target (m, world)."""
        c, eef, centre = self.config, self.task.eef_pos_w(), self.task.target_pos_w()
        error_xy_m = float(np.linalg.norm(eef[:2] - centre[:2]))
        grasp_z = max(centre[2] - c.grasp_below_centre_m, TABLE_HEIGHT_M + c.lowest_m)
        if self.phase == "approach":
            aligned = error_xy_m < c.aligned_m and np.linalg.norm(self._rotation_error()) < c.aligned_rad
            ready = self._miss is None and aligned and self._opened()
            if ready and self._will_miss:
                self._will_miss, self._miss = False, self._draw_miss(centre)
            elif ready:
                self.phase, self._descending = "descend", 0
        elif self.phase == "descend":
            self._descending += 1
            if error_xy_m > 3 * c.aligned_m or self._descending > c.descend_patience:
                self._retry()
            elif eef[2] - grasp_z < 0.004:
                self.phase, self._closing = "close", 0
        elif self.phase == "close":
            self._closing += 1
            if self._held():
                self.phase = "lift"
            elif self._closing > c.close_patience:
                self._retry()
        elif self.phase == "lift" and not self._held() and centre[2] < TABLE_HEIGHT_M + 0.03:
            self._retry()
        heights = {"approach": centre[2] + c.hover_m, "descend": grasp_z, "close": grasp_z, "lift": grasp_z + 0.15}
        return np.array([centre[0], centre[1], heights[self.phase]])

    def _preshape(self) -> float:
        """Open fully where there is room, else only so far that the fingers fit between the neighbours."""
        room_m = self.task.finger_room_m(self.task.target_yaw_rad() + np.pi / 2 * (self._face or 0))
        if room_m >= self.config.ample_room_m:
            return OPEN
        excess_m = self.task.finger_opening_m() - (self.task.target_width_m() + 2 * self.config.preshape_m)
        return HOLD if abs(excess_m) < 0.008 else CLOSE if excess_m > 0 else OPEN

    def _opened(self) -> bool:
        """The fingers fit around the object."""
        return self.task.finger_opening_m() > self.task.target_width_m() + self.config.preshape_m

    def _draw_miss(self, centre_w: Float64[np.ndarray, "3"]) -> Miss:
        c = self.config
        aside_m, angle_rad = c.miss_aside_m * np.sqrt(self.rng.random()), self.rng.uniform(-np.pi, np.pi)
        clear_m = self.task.target_width_m() / 2 + c.miss_clear_m
        offset = np.array([aside_m * np.cos(angle_rad), aside_m * np.sin(angle_rad), clear_m])
        return Miss(centre_w + offset, self.rng.uniform(0.0, c.miss_lift_m))

    def _held(self) -> bool:
        """The fingers have stopped on something: narrower than open, wider than closed, and both still."""
        return bool(
            self._closing >= 3 and 0.004 < self.task.finger_opening_m() < 0.06 and self.task.finger_speed_m_s() < 0.01
        )

    def _retry(self) -> None:
        self.phase, self._face = "approach", None

    def _rotation_error(self) -> Float64[np.ndarray, "3"]:
        """Rotation vector (rad, world) from the present orientation to gripper-down at the chosen yaw."""
        rotation = self.task.eef_rot_w()
        if self._face is None:
            self._face = self._choose_face(rotation)
        yaw_rad = self.task.target_yaw_rad() + np.pi / 2 * self._face
        down = Rotation.from_euler("z", yaw_rad) * Rotation.from_matrix(np.diag([1.0, -1.0, -1.0]))
        return (down * Rotation.from_matrix(rotation).inv()).as_rotvec()

    def _choose_face(self, rotation: Float64[np.ndarray, "3 3"]) -> int:
        """Of the ways to hold a cube: those with most room for the fingers, then the smallest turn of the hand."""
        hand_rad = float(np.arctan2(rotation[1, 0], rotation[0, 0]))
        yaws_rad = self.task.target_yaw_rad() + np.pi / 2 * np.arange(4)
        turns_rad = np.abs((yaws_rad - hand_rad + np.pi) % (2 * np.pi) - np.pi)
        room_m = np.array([self.task.finger_room_m(yaw_rad) for yaw_rad in yaws_rad])
        return int(np.argmin(np.where(room_m < room_m.max() - 0.003, np.inf, turns_rad)))

    def _draw_noise(self) -> Float64[np.ndarray, "7"]:
        c = self.config
        scale = c.noise * np.array([1, 1, 1, 0.1, 0.1, 0.1])
        if self.phase != "approach":
            scale = scale * c.noise_near_object
        fresh = self.rng.normal(size=6) * scale * np.sqrt(1 - c.noise_correlation**2)
        self._noise = c.noise_correlation * self._noise + fresh
        return np.append(self._noise, 0.0)
