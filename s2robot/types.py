"""The data contract: every key, once, with dtype, shape, range, frame and unit.

Dims: t time steps, h w image height and width (px), p proprioception, g goal, a action, s simulator state.

An episode of t steps pairs the observation *before* each action with that action; the observation after
the last action is not stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from s2robot.errors import MismatchError, S2RobotError, unknown_name


@dataclass(frozen=True)
class CameraSpec:
    """One camera stream: RGB, upright, uint8, (height, width, 3)."""

    name: str
    height: int
    width: int


@dataclass(frozen=True)
class ObservationSpec:
    """What a policy may see. `proprio` and `goal` name every element of their vectors, SI units in the names."""

    cameras: tuple[CameraSpec, ...]
    proprio: tuple[str, ...]
    goal: tuple[str, ...] = ()

    def camera(self, name: str) -> CameraSpec:
        """The camera called `name`. Raises S2RobotError naming the known ones."""
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise unknown_name("camera", name, [c.name for c in self.cameras])


@dataclass(frozen=True)
class ActionSpec:
    """What one action vector means. Limits are per element, in `units`."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    frame: str
    mode: Literal["delta", "absolute"]
    rotation: Literal["none", "axis_angle", "rot6d", "quaternion"]
    gripper: str
    rate_hz: float

    def __post_init__(self) -> None:
        n = len(self.names)
        if not len(self.units) == len(self.low) == len(self.high) == n:
            raise S2RobotError(
                f"ActionSpec has {n} names, {len(self.units)} units, {len(self.low)} lower and "
                f"{len(self.high)} upper limits; give one of each per element"
            )


@dataclass(frozen=True)
class DatasetSpec:
    """Store-level description. `renderer` holds every setting that changes how a stored frame looks.

    `task_config` builds the simulated task again (`_target_` and its arguments); empty for a real robot's log.
    """

    task: str
    observation: ObservationSpec
    action: ActionSpec
    renderer: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    task_config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, low, high in zip(self.action.names, self.action.low, self.action.high, strict=True):
            if not (isfinite(low) and isfinite(high)):
                raise S2RobotError(
                    f"action {name} is limited to {low:g} to {high:g}; give the range that the robot accepts, or the "
                    "least and greatest that the log holds"
                )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; the inverse of `from_json`."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DatasetSpec:
        """Raises S2RobotError where a key is missing or unknown."""
        try:
            return cls(
                task=data["task"],
                observation=observation_spec_from_json(data["observation"]),
                action=action_spec_from_json(data["action"]),
                renderer=dict(data["renderer"]),
                source=data["source"],
                task_config=dict(data.get("task_config", {})),
            )
        except (KeyError, TypeError) as error:
            raise S2RobotError(f"dataset spec does not parse ({error}); was it written by this version?") from error


def observation_spec_from_json(data: Mapping[str, Any]) -> ObservationSpec:
    """Inverse of `dataclasses.asdict` on an ObservationSpec after a JSON round trip."""
    return ObservationSpec(
        cameras=tuple(CameraSpec(**camera) for camera in data["cameras"]),
        proprio=tuple(data["proprio"]),
        goal=tuple(data["goal"]),
    )


def action_spec_from_json(data: Mapping[str, Any]) -> ActionSpec:
    """Inverse of `dataclasses.asdict` on an ActionSpec after a JSON round trip."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return ActionSpec(**fields)


def require_equal(what: str, ours: object, theirs: object, remedy: str) -> None:
    """Raise MismatchError unless two specs are equal; the message names the first field that differs."""
    if ours == theirs:
        return
    mine, other = _flat(ours), _flat(theirs)
    key = next((k for k in sorted({*mine, *other}) if mine.get(k) != other.get(k)), "")
    raise MismatchError(f"{what} differs at {key or 'the top'}: {mine.get(key)!r} against {other.get(key)!r}; {remedy}")


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {k: v for key in value for k, v in _flat(value[key], f"{prefix}.{key}" if prefix else str(key)).items()}
    return {prefix: value}


@dataclass(frozen=True)
class Grasp:
    """Where the gripper was when it began to close: distance (m) of the grip site to the centre of the object that the
    goal names and to the nearest that another goal names, None where there is none. For the study of failures.
    """

    named_m: float
    other_m: float | None

    @property
    def nearest_m(self) -> float:
        """To whichever object is nearer."""
        return self.named_m if self.other_m is None else min(self.named_m, self.other_m)


@dataclass(frozen=True)
class Observation:
    """One time step as a policy sees it. `images` holds only the cameras that were asked for."""

    images: Mapping[str, UInt8[np.ndarray, "h w 3"]]
    proprio: Float32[np.ndarray, " p"]
    goal: Float32[np.ndarray, " g"]
    time_s: float
    captures: Mapping[str, tuple[int, float]] = field(default_factory=dict)  # camera -> (counter, stamp in s)


EndReason = Literal["success", "horizon", "aborted"]


@dataclass
class Episode:
    """A whole demonstration or rollout in memory.

    `sim_state` is the flattened simulator state before each action (frames can be re-rendered from it at any
    size). `labels` are privileged per-step arrays (t, ...) that a policy never sees, e.g. object positions.
    """

    images: dict[str, UInt8[np.ndarray, "t h w 3"]]
    proprio: Float32[np.ndarray, "t p"]
    action: Float32[np.ndarray, "t a"]
    time_s: Float64[np.ndarray, " t"]
    goal: Float32[np.ndarray, " g"]
    success: bool
    seed: int
    end: EndReason = "success"
    sim_state: Float64[np.ndarray, "t s"] | None = None
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.action)
