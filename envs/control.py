"""The arm's controller between two actions, without robosuite's look-ups, to the same bits (docs/log.md, 2026-11-30).

An action lasts 25 physics steps. At each of them robosuite looks everything up by name and asks MuJoCo for the same
Jacobians several times, 0.5 ms of Python beside 0.1 ms of physics, though the goal moves with the first one alone. Here
too the first goes through robosuite; the others ask for what changes, once, and hand it to robosuite's own functions of
operational space control (Khatib, 1987).
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error

from s2robot.errors import S2RobotError

ARM = "right"


class ArmTorques:
    """Torques of the arm of a robosuite robot towards the goal that its controller was given last.

    Raises S2RobotError where that controller is another than is repeated here: OSC_POSE of fixed impedance, position
    and orientation uncoupled, nothing interpolated, relative to a base that stands still.
    """

    def __init__(self, robot: Any, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self.robot, self.model, self.data = robot, model, data
        controller = robot.part_controllers[ARM]
        self._site = model.site(controller.ref_name).id
        base = model.body_rootid[model.site_bodyid[self._site]]
        moves = model.body_weldid[base] != 0
        interpolated = controller.interpolator_pos is not None or controller.interpolator_ori is not None
        plain = controller.name == "OSC_POSE" and controller.impedance_mode == "fixed" and controller.uncoupling
        if not plain or interpolated or controller.input_ref_frame != "base" or moves:
            raise S2RobotError(f"controller {controller.name} of {robot.name} is set up otherwise than repeated here")
        self._qpos, self._qvel = _slice(controller.qpos_index), _slice(controller.qvel_index)
        self._actuators = _slice(robot._ref_actuators_indexes_dict[ARM])
        self._low, self._high = model.actuator_ctrlrange[self._actuators].T
        self._jacobian_pos, self._jacobian_rot = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        self._mass = np.zeros((model.nv, model.nv))
        # In memory as robosuite has them, one in rows and one in columns: products round alike.
        joints = len(controller.qvel_index)
        self._both, self._arm_mass = np.zeros((6, joints)), np.zeros((joints, joints), order="F")
        self._pos, self._rot = self._both[:3], self._both[3:]

    def aim(self) -> None:
        """Take over the goal of the controller, which robosuite makes anew at every reset."""
        self._controller = c = self.robot.part_controllers[ARM]
        self._place_w = c.origin_pos + np.dot(c.origin_ori, c.goal_pos)
        self._turn_w = np.dot(c.origin_ori, c.goal_ori)

    def apply(self) -> None:
        """Write the torques (Nm) in the state that `mj_step1` has left into `data.ctrl`."""
        c, data = self._controller, self.data
        mujoco.mj_jacSite(self.model, data, self._jacobian_pos, self._jacobian_rot, self._site)
        self._pos[:], self._rot[:] = self._jacobian_pos[:, self._qvel], self._jacobian_rot[:, self._qvel]
        mujoco.mj_fullM(self.model, self._mass, data.qM)
        mass = self._arm_mass
        mass[:] = self._mass[self._qvel, self._qvel]
        turn = orientation_error(self._turn_w, data.site_xmat[self._site].reshape(3, 3))
        force = (self._place_w - data.site_xpos[self._site]) * c.kp[:3] - self._jacobian_pos @ data.qvel * c.kd[:3]
        torque = turn * c.kp[3:] - self._jacobian_rot @ data.qvel * c.kd[3:]
        _, lambda_pos, lambda_rot, nullspace = opspace_matrices(mass, self._both, self._pos, self._rot)
        wrench = np.concatenate([lambda_pos @ force, lambda_rot @ torque])
        torques = self._both.T @ wrench + data.qfrc_bias[self._qvel]
        torques += nullspace_torques(mass, nullspace, c.initial_joint, data.qpos[self._qpos], data.qvel[self._qvel])
        data.ctrl[self._actuators] = np.clip(torques, self._low, self._high)


def _slice(indices: Any) -> slice:
    """Indices in a row, as a slice."""
    first = int(indices[0])
    assert list(indices) == list(range(first, first + len(indices)))
    return slice(first, first + len(indices))
