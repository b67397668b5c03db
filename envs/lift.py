"""`lift`: robosuite's Lift, the cube anywhere in +-12/15 cm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from s2robot.envs.task import CAMERAS, TabletopTask
from s2robot.envs.world import LiftWorld


class Lift(TabletopTask):
    """Success is robosuite's own: the cube's centre more than 4 cm above the table."""

    def __init__(
        self,
        name: str = "lift",
        horizon: int = 100,
        frame_px: int = 224,
        cameras: Sequence[str] = CAMERAS,
        half_range_m: tuple[float, float] = (0.12, 0.15),
    ) -> None:
        self.half_range_m = (float(half_range_m[0]), float(half_range_m[1]))
        super().__init__(name, horizon, frame_px, cameras)

    def _build_world(self) -> LiftWorld:
        return LiftWorld(self.half_range_m)

    def _start_episode(self, rng: np.random.Generator) -> None:
        """robosuite's sampler has placed the cube."""

    def is_success(self) -> bool:
        """robosuite's `_check_success`."""
        return bool(self.world._check_success())

    def target_pos_w(self) -> Float64[np.ndarray, "3"]:
        """Centre of the cube (m, world)."""
        return self.data.xpos[self.world.cube_body_id].copy()

    def goal_bodies(self) -> list[int]:
        """The cube."""
        return [self.world.cube_body_id]

    def target_width_m(self) -> float:
        """Edge of the cube (m): robosuite draws 4.0 to 4.4 cm, the same in every world here."""
        return 2.0 * float(self.world.cube.size[0])

    def target_yaw_rad(self) -> float:
        """Yaw of the cube about the vertical."""
        rotation = self.data.xmat[self.world.cube_body_id].reshape(3, 3)
        return float(np.arctan2(rotation[1, 0], rotation[0, 0]))
