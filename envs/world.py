"""The robosuite worlds inside our tasks: a Panda at a table, with cubes or with whatever objects are handed in.

Only robosuite's simulation and controllers are used. Its observables, cameras and hard resets are switched off:
they cost 5 of 6 ms per step and 1.5 s per reset (measured), and our tasks read the simulator directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from robosuite.controllers import load_composite_controller_config
from robosuite.environments.manipulation.lift import Lift
from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
from robosuite.models.arenas import TableArena
from robosuite.models.objects import MujocoObject
from robosuite.models.tasks import ManipulationTask
from robosuite.utils.placement_samplers import UniformRandomSampler

from s2robot.envs.control import ArmTorques

CONTROL_RATE_HZ = 20.0
TABLE_HEIGHT_M = 0.8  # robosuite's table top, world frame
TABLE_SIZE_M = (0.8, 0.8, 0.05)


def world_options() -> dict[str, Any]:
    """Keyword arguments shared by all worlds: Panda, OSC_POSE deltas at 20 Hz, nothing drawn, soft resets."""
    return {
        "robots": "Panda",
        "controller_configs": load_composite_controller_config(controller="BASIC", robot="Panda"),
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "use_camera_obs": False,
        "control_freq": CONTROL_RATE_HZ,
        "ignore_done": True,
        "hard_reset": False,
        "seed": 0,  # Lift draws the size of its cube when it is built: unseeded, every process gets another cube
    }


class OneRobot:
    """What both worlds share."""

    robots: list[Any]
    sim: Any
    control_timestep: float
    model_timestep: float
    _torques: ArmTorques | None = None

    def advance(self, action: np.ndarray) -> None:
        """One action: the state becomes what robosuite's `step` makes of it, to the bit, in less than half the time."""
        if self._torques is None:
            self._torques = ArmTorques(self.robots[0], self.sim.model._model, self.sim.data._data)
        for step in range(int(self.control_timestep / self.model_timestep)):
            self.sim.step1()
            if step:
                self._torques.apply()
            else:
                self.robots[0].control(action, policy_step=True)
                self._torques.aim()
            self.sim.step2()


class LiftWorld(OneRobot, Lift):
    """robosuite's Lift with the cube placed over a larger area than its default +-3 cm."""

    def __init__(self, half_range_m: tuple[float, float]) -> None:
        half_x_m, half_y_m = half_range_m
        sampler = UniformRandomSampler(
            name="ObjectSampler",
            x_range=[-half_x_m, half_x_m],
            y_range=[-half_y_m, half_y_m],
            rotation=None,
            ensure_object_boundary_in_range=False,  # the default shrinks the area by the cube's radius
            ensure_valid_placement=True,
            reference_pos=np.array((0.0, 0.0, TABLE_HEIGHT_M)),
            z_offset=0.01,
        )
        super().__init__(placement_initializer=sampler, use_object_obs=False, **world_options())
        self._observables: dict[str, Any] = {}

    def seed_episode(self, rng: np.random.Generator) -> None:
        """Make the next soft reset a function of `rng` alone."""
        self.rng = rng
        self.placement_initializer.rng = rng


class TableWorld(OneRobot, ManipulationEnv):
    """A Panda at an 80 cm table with the given objects; placing them is the task's business."""

    def __init__(self, objects: Sequence[MujocoObject]) -> None:
        self.objects = list(objects)
        super().__init__(**world_options())
        self._observables: dict[str, Any] = {}

    def seed_episode(self, rng: np.random.Generator) -> None:
        """Make the next soft reset a function of `rng` alone."""
        self.rng = rng

    def reward(self, action: np.ndarray | None = None) -> float:
        """Tasks score themselves."""
        return 0.0

    def _load_model(self) -> None:
        super()._load_model()
        robot = self.robots[0].robot_model
        robot.set_base_xpos(robot.base_xpos_offset["table"](TABLE_SIZE_M[0]))
        arena = TableArena(table_full_size=TABLE_SIZE_M, table_offset=np.array((0.0, 0.0, TABLE_HEIGHT_M)))
        arena.set_origin([0, 0, 0])
        self.model = ManipulationTask(mujoco_arena=arena, mujoco_robots=[robot], mujoco_objects=self.objects)
