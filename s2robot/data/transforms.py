"""Transforms in inverse pairs, the identical object in training, evaluation and on the robot.

Dims: d elements of a vector, ... any leading dimensions.

Each is a frozen dataclass of plain numbers, takes numpy arrays and torch tensors alike, has an `inverse`, and goes
through JSON unchanged, so that a checkpoint's manifest can carry it. Neither torch nor anything else is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

from s2robot.errors import S2RobotError, unknown_name

# A numpy array or a torch tensor; what goes in comes out, with the same dtype and device.
ArrayT = TypeVar("ArrayT")


@runtime_checkable
class Transform(Protocol):
    """A function of arrays with an inverse, described by plain numbers."""

    def __call__(self, x: ArrayT) -> ArrayT: ...

    def inverse(self) -> Any:
        """The transform that undoes this one."""
        ...


@dataclass(frozen=True)
class Normalise:
    """y = (x - offset) / scale, per element of the last dimension."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_affine(self.offset, self.scale)

    def __call__(self, x: ArrayT) -> ArrayT:
        """Shape (..., d) to (..., d). Raises S2RobotError when d is not that of the transform."""
        offset, scale = _affine_like(self.offset, self.scale, x)
        return (x - offset) / scale

    def inverse(self) -> Unnormalise:
        """The transform back to the units that came in."""
        return Unnormalise(self.offset, self.scale)

    @classmethod
    def fit(
        cls,
        data: Float[np.ndarray, "n d"],
        mode: Literal["z_score", "min_max"] = "z_score",
        floor: float | Sequence[float] = 1e-2,
    ) -> Normalise:
        """From samples: to mean 0 and standard deviation 1, or from [min, max] to [-1, 1].

        `floor`, in the unit of each element, bounds the scale from below: an element that never moved in the
        demonstrations (a closed gripper, a fixed axis) would otherwise turn sensor noise into huge values.
        Raises S2RobotError for data that is empty, not finite or not (n, d).
        """
        values = np.asarray(data, np.float64)  # the mean of many float32 loses digits
        if values.ndim != 2 or len(values) == 0 or not np.isfinite(values).all():
            raise S2RobotError(f"a normaliser is fitted to finite samples (n, d) with n >= 1, got shape {values.shape}")
        if mode == "z_score":
            offset, scale = values.mean(0), values.std(0)
        elif mode == "min_max":
            low, high = values.min(0), values.max(0)
            offset, scale = (low + high) / 2, (high - low) / 2
        else:
            raise unknown_name("normalisation", mode, ("z_score", "min_max"))
        return cls(tuple(offset.tolist()), tuple(np.maximum(scale, floor).tolist()))


@dataclass(frozen=True)
class Unnormalise:
    """x = y * scale + offset; the inverse of `Normalise`."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_affine(self.offset, self.scale)

    def __call__(self, y: ArrayT) -> ArrayT:
        """Shape (..., d) to (..., d). Raises S2RobotError when d is not that of the transform."""
        offset, scale = _affine_like(self.offset, self.scale, y)
        return y * scale + offset

    def inverse(self) -> Normalise:
        """The transform to normalised values."""
        return Normalise(self.offset, self.scale)


@dataclass(frozen=True)
class MatrixToRot6d:
    """Rotation matrix to its first two columns, one after the other: a continuous representation without the sign
    ambiguity of quaternions (Zhou et al., arXiv 1812.07035, section 4).
    """

    def __call__(self, matrix: ArrayT) -> ArrayT:
        """Shape (..., 3, 3) to (..., 6). Raises S2RobotError for another shape."""
        array: Any = matrix
        if tuple(array.shape[-2:]) != (3, 3):
            raise S2RobotError(f"a rotation matrix has shape (..., 3, 3), got {tuple(array.shape)}")
        return _namespace(array).concatenate([array[..., :, 0], array[..., :, 1]], -1)

    def inverse(self) -> Rot6dToMatrix:
        """Six numbers back to a matrix."""
        return Rot6dToMatrix()


@dataclass(frozen=True)
class Rot6dToMatrix:
    """Six numbers, as a policy predicts them, to the rotation matrix that Gram and Schmidt make of them."""

    def __call__(self, rot6d: ArrayT) -> ArrayT:
        """Shape (..., 6) to (..., 3, 3). Raises S2RobotError for another shape; parallel columns give NaN."""
        array: Any = rot6d
        if array.shape[-1] != 6:
            raise S2RobotError(f"a 6D rotation has shape (..., 6), got {tuple(array.shape)}")
        first, second = array[..., :3], array[..., 3:]
        x = _unit(first)
        y = _unit(second - (x * second).sum(-1)[..., None] * x)
        rows = [x[..., (i + 1) % 3] * y[..., (i + 2) % 3] - x[..., (i + 2) % 3] * y[..., (i + 1) % 3] for i in range(3)]
        stack = _namespace(array).stack
        return stack([x, y, stack(rows, -1)], -1)

    def inverse(self) -> MatrixToRot6d:
        """A matrix back to six numbers."""
        return MatrixToRot6d()


_TRANSFORMS: dict[str, Any] = {c.__name__: c for c in (Normalise, Unnormalise, MatrixToRot6d, Rot6dToMatrix)}


def to_json(transform: Transform) -> dict[str, Any]:
    """Plain JSON types; the inverse of `from_json`. Floats keep every bit."""
    return {"transform": type(transform).__name__, **asdict(transform)}  # type: ignore[call-overload]


def from_json(data: Mapping[str, Any]) -> Transform:
    """Raises S2RobotError for an unknown transform or fields that it does not have."""
    fields = dict(data)
    name = str(fields.pop("transform", None))
    if name not in _TRANSFORMS:
        raise unknown_name("transform", name, _TRANSFORMS)
    try:
        return _TRANSFORMS[name](**{key: tuple(map(float, value)) for key, value in fields.items()})
    except TypeError as error:
        raise S2RobotError(f"transform {name} does not parse ({error}); was it written by this version?") from error


def _check_affine(offset: tuple[float, ...], scale: tuple[float, ...]) -> None:
    if len(offset) != len(scale) or not all(0 < value < float("inf") for value in scale):
        raise S2RobotError(f"a normaliser needs one positive scale per offset, got scale {scale} for offset {offset}")


def _affine_like(offset: tuple[float, ...], scale: tuple[float, ...], x: Any) -> tuple[Any, Any]:
    """Offset and scale as the kind of array that `x` is."""
    if x.shape[-1] != len(offset):
        raise S2RobotError(f"this normaliser is for {len(offset)} elements, got an array of shape {tuple(x.shape)}")
    if hasattr(x, "new_tensor"):
        return x.new_tensor(offset), x.new_tensor(scale)
    return np.asarray(offset, x.dtype), np.asarray(scale, x.dtype)


def _namespace(x: Any) -> Any:
    """numpy or torch, whichever made `x` (and so is imported already)."""
    return sys.modules[type(x).__module__.partition(".")[0]]


def _unit(x: Any) -> Any:
    return x / ((x * x).sum(-1) ** 0.5)[..., None]
