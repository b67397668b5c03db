"""`pick_cube`: several cubes, the goal names one colour; done when that cube and no other is lifted.

The paper's robot task (arXiv 2403.13043, Table 10). Number, size and spacing are configuration: the harder
variants `pick_cube_small` and `pick_cube_clutter` are YAML files.

Dims: n cubes, g goal (one entry per colour of the palette).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import mujoco
import numpy as np
from jaxtyping import Float64
from robosuite.models.objects import BoxObject

from s2robot.envs.task import CAMERAS, TabletopTask
from s2robot.envs.world import TABLE_HEIGHT_M, TableWorld
from s2robot.errors import S2RobotError

PALETTE = {
    "red": (0.85, 0.08, 0.08),
    "green": (0.10, 0.65, 0.15),
    "blue": (0.10, 0.20, 0.85),
    "yellow": (0.90, 0.80, 0.05),
    "magenta": (0.80, 0.10, 0.75),
    "cyan": (0.05, 0.75, 0.80),
}
LIFTED_M = 0.04  # centre above its resting height
UNTOUCHED_M = 0.015
MAX_PLACEMENTS = 20_000
FINGER_HALF_WIDTH_M = 0.011


class PickCube(TabletopTask):
    """`num_cubes` cubes of `cube_m` edge, colours and places uniform, at least `gap_m` between their outlines.

    With `cluster_m` the cubes stand around a random centre within that radius instead of all over the table.
    """

    def __init__(
        self,
        name: str = "pick_cube",
        horizon: int = 120,
        frame_px: int = 224,
        cameras: Sequence[str] = CAMERAS,
        num_cubes: int = 4,
        cube_m: float = 0.03,
        gap_m: float = 0.03,
        half_range_m: tuple[float, float] = (0.12, 0.15),
        cluster_m: float | None = None,
    ) -> None:
        if not 1 <= num_cubes <= len(PALETTE):
            raise S2RobotError(f"num_cubes={num_cubes}: the palette has 1 to {len(PALETTE)} colours")
        self.num_cubes, self.cube_m, self.gap_m, self.cluster_m = num_cubes, cube_m, gap_m, cluster_m
        self.half_range_m = (float(half_range_m[0]), float(half_range_m[1]))
        self.colours = tuple(PALETTE)[:num_cubes]
        self.goal_names = tuple(f"goal_{colour}" for colour in self.colours)
        self.target = 0
        self._cube_of_colour = np.arange(num_cubes)
        super().__init__(name, horizon, frame_px, cameras)
        self._bodies = [self.model.body(f"cube{i}_main").id for i in range(num_cubes)]
        self._addresses = [int(self.model.joint(f"cube{i}_joint0").qposadr[0]) for i in range(num_cubes)]
        self._visuals = [self.model.geom(f"cube{i}_g0_vis").id for i in range(num_cubes)]

    def _build_world(self) -> TableWorld:
        half_m = [self.cube_m / 2] * 3
        return TableWorld([BoxObject(f"cube{i}", size=half_m, rgba=[1, 1, 1, 1]) for i in range(self.num_cubes)])

    def _start_episode(self, rng: np.random.Generator) -> None:
        order = rng.permutation(self.num_cubes)  # cube i gets colour order[i]
        self._cube_of_colour = np.argsort(order)
        for i, colour in enumerate(order):
            self.model.geom_rgba[self._visuals[i]] = [*PALETTE[self.colours[colour]], 1.0]
        self._place_cubes(rng)
        named = int(rng.integers(self.num_cubes))
        self.goal = np.zeros(self.num_cubes, np.float32)
        self.goal[named] = 1.0
        self.target = int(self._cube_of_colour[named])

    def _place_cubes(self, rng: np.random.Generator) -> None:
        """Uniform over places and yaws by rejection of whole layouts, so that no cube is favoured."""
        for _ in range(MAX_PLACEMENTS):
            places = self._sample_places(rng)
            if not self._apart(places):  # cheap and necessary; the outlines are checked below
                continue
            for address, place in zip(self._addresses, places, strict=True):
                yaw_rad = rng.uniform(-np.pi, np.pi)
                self.data.qpos[address : address + 3] = [*place, TABLE_HEIGHT_M + self.cube_m / 2]
                self.data.qpos[address + 3 : address + 7] = [np.cos(yaw_rad / 2), 0, 0, np.sin(yaw_rad / 2)]
            mujoco.mj_kinematics(self.model, self.data)
            if self.smallest_gap_m() >= self.gap_m:
                return
        raise S2RobotError(
            f"{self.num_cubes} cubes of {self.cube_m} m do not fit {self.gap_m} m apart; "
            "make gap_m smaller or the area larger"
        )

    def _sample_places(self, rng: np.random.Generator) -> Float64[np.ndarray, "n 2"]:
        """Cube centres, uniform over the area or around a uniform middle."""
        if self.cluster_m is None:
            return rng.uniform(-1, 1, (self.num_cubes, 2)) * self.half_range_m
        middle = rng.uniform(-1, 1, 2) * self.half_range_m
        return middle + rng.uniform(-self.cluster_m, self.cluster_m, (self.num_cubes, 2))

    def _apart(self, places: Float64[np.ndarray, "n 2"]) -> bool:
        """Whether all centres are at least an edge and a gap apart."""
        distance_m = np.linalg.norm(places[:, None] - places[None], axis=-1)
        return bool((distance_m + np.eye(self.num_cubes) >= self.cube_m + self.gap_m).all())

    def smallest_gap_m(self) -> float:
        """Smallest distance between the outlines of two cubes (m); infinite for one cube."""
        pairs = itertools.combinations(self._visuals, 2)
        return min((mujoco.mj_geomDistance(self.model, self.data, a, b, 1.0, None) for a, b in pairs), default=np.inf)

    def cube_pos_w(self) -> Float64[np.ndarray, "n 3"]:
        """Centres of all cubes (m, world): privileged."""
        return self.data.xpos[self._bodies].copy()

    def goal_bodies(self) -> list[int]:
        """The cube of each colour."""
        return [self._bodies[cube] for cube in self._cube_of_colour]

    def is_success(self) -> bool:
        """The named cube is lifted by 4 cm and no other cube leaves the table."""
        height_m = self.cube_pos_w()[:, 2] - (TABLE_HEIGHT_M + self.cube_m / 2)
        others = np.delete(height_m, self.target)
        return bool(height_m[self.target] > LIFTED_M and (others < UNTOUCHED_M).all())

    def target_pos_w(self) -> Float64[np.ndarray, "3"]:
        """Centre of the named cube (m, world)."""
        return self.cube_pos_w()[self.target]

    def target_width_m(self) -> float:
        """Edge of a cube (m)."""
        return self.cube_m

    def target_yaw_rad(self) -> float:
        """Yaw of the named cube about the vertical."""
        rotation = self.data.xmat[self._bodies[self.target]].reshape(3, 3)
        return float(np.arctan2(rotation[1, 0], rotation[0, 0]))

    def finger_room_m(self, yaw_rad: float) -> float:
        """Free space (m) beside the named cube along the fingers' closing axis (the hand's y), at most 4 cm."""
        centre = self.target_pos_w()[:2]
        closing = np.array([-np.sin(yaw_rad), np.cos(yaw_rad)])
        across = np.array([closing[1], -closing[0]])
        others = np.delete(self.cube_pos_w()[:, :2], self.target, axis=0) - centre
        radius_m = self.cube_m / np.sqrt(2)
        in_the_way = np.abs(others @ across) < radius_m + FINGER_HALF_WIDTH_M
        reach_m = np.abs(others @ closing)[in_the_way] - radius_m - self.cube_m / 2
        return float(min([0.04, *reach_m]))
