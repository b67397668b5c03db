"""A task whose physics runs on as time passes, whether or not commands come: what a robot's side is simulated with.

Dims: a action, j joints.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from s2robot.envs.task import ACTION_SPEC, TabletopTask, checked_action
from s2robot.envs.world import CONTROL_RATE_HZ

STUCK_DAMPING = 1e5  # N m s/rad: more than any motor of the arm moves


class RealTimeTask:
    """Physics step by physics step. Twenty-five steps after a command are exactly one `TabletopTask.step`."""

    def __init__(self, task: TabletopTask) -> None:
        self.task = task
        self.step_s = float(task.model.opt.timestep)
        self.steps_per_tick = round(1.0 / (CONTROL_RATE_HZ * self.step_s))
        self._damping = task.model.dof_damping.copy()
        self._hold()

    def reset(self, seed: int) -> str:
        """Start an episode; returns the hash of its initial state."""
        self.task.model.dof_damping[:] = self._damping
        _, info = self.task.reset(seed=seed)
        self._hold()
        return str(info["initial_state_sha256"])

    def command(self, action: Sequence[float] | np.ndarray) -> None:
        """What the controller follows from the next physics step on. Raises S2RobotError as `TabletopTask.step`."""
        self._action, self._new = checked_action(action), True

    def advance(self, steps: int) -> None:
        """`steps` physics steps."""
        world = self.task.world
        for _ in range(steps):
            if world.lite_physics:
                world.sim.step1()
            else:
                world.sim.forward()
            world._pre_action(self._action, self._new)
            if world.lite_physics:
                world.sim.step2()
            else:
                world.sim.step()
            self._new = False

    def stick(self, joint: int | None) -> None:
        """One joint of the arm hardly moves any more; None frees all."""
        damping = self.task.model.dof_damping
        damping[:] = self._damping
        if joint is not None:
            damping[self._arm()[1][joint]] = STUCK_DAMPING

    def joints(self) -> tuple[Float64[np.ndarray, " j"], Float64[np.ndarray, " j"]]:
        """Positions (rad) and velocities (rad/s) of the arm."""
        places, speeds = self._arm()
        return self.task.data.qpos[places].copy(), self.task.data.qvel[speeds].copy()

    def _arm(self) -> tuple[list[int], list[int]]:
        robot = self.task.robot
        return list(robot._ref_arm_joint_pos_indexes), list(robot._ref_arm_joint_vel_indexes)

    def _hold(self) -> None:
        self._action, self._new = np.zeros(len(ACTION_SPEC.names)), True
