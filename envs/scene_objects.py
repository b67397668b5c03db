"""The objects of random scenes: primitives of any size and colour, and robosuite's meshes, each with its labels.

Some kinds are held out, and two bands of hue for what is painted (textures and meshes keep their own colours):
pre-training does not see them, the probes do.

Dims: v vertices.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float32, Float64
from robosuite.models.objects import (
    BallObject,
    BottleObject,
    BoxObject,
    BreadObject,
    CanObject,
    CapsuleObject,
    CerealObject,
    CylinderObject,
    LemonObject,
    MilkObject,
    MujocoObject,
)

PRIMITIVES: dict[str, Callable[[str], MujocoObject]] = {
    "box": lambda name: BoxObject(name, size=[0.02] * 3, rgba=[1, 1, 1, 1]),
    "cylinder": lambda name: CylinderObject(name, size=[0.02] * 2, rgba=[1, 1, 1, 1]),
    "ball": lambda name: BallObject(name, size=[0.02], rgba=[1, 1, 1, 1]),
    "capsule": lambda name: CapsuleObject(name, size=[0.02] * 2, rgba=[1, 1, 1, 1]),
}
MESHES: dict[str, Callable[[str], MujocoObject]] = {
    "can": CanObject,
    "bottle": BottleObject,
    "lemon": LemonObject,
    "milk": MilkObject,
    "cereal": CerealObject,
    "bread": BreadObject,
}
KIND_NAMES = (*PRIMITIVES, *MESHES)
HELD_OUT_KINDS = ("capsule", "bread")
HELD_OUT_HUES = ((0.06, 0.11), (0.72, 0.78))  # orange and violet, on the colour circle from 0 to 1
# How often each kind stands in the world; a mesh cannot be resized once it is built, so each comes in two sizes.
STOCK = (("box", 6), ("cylinder", 3), ("ball", 2), ("capsule", 2))
MESH_SCALES = (0.9, 0.45)
TEXTURED = 0.25  # share of primitives that wear one of the world's textures
SMALLEST_M, LARGEST_M = 0.005, 0.035  # half an edge: 1 cm to 7 cm across


@dataclass(frozen=True)
class Item:
    """One object of the world. `scale` is that of a mesh, 1 for a primitive."""

    name: str
    kind: str
    scale: float

    @property
    def is_mesh(self) -> bool:
        """Whether its size and texture are fixed."""
        return self.kind in MESHES

    def build(self) -> MujocoObject:
        """The robosuite object."""
        made = (MESHES if self.is_mesh else PRIMITIVES)[self.kind](self.name)
        if self.is_mesh:
            made.set_scale(self.scale)
        return made


def stock() -> list[Item]:
    """Every object that a scene may show."""
    kinds = [(kind, 1.0) for kind, count in STOCK for _ in range(count)]
    kinds += [(kind, scale) for kind in MESHES for scale in MESH_SCALES]
    return [Item(f"object{i}", kind, scale) for i, (kind, scale) in enumerate(kinds)]


@dataclass(frozen=True)
class Look:
    """How one object came out: half its height above its centre (m), longest extent (m), RGB in [0, 1] before light or
    NaN where a texture decides.
    """

    half_height_m: float
    size_m: float
    albedo: Float32[np.ndarray, "3"]


NO_ALBEDO = np.full(3, np.nan, np.float32)


def dress(
    item: Item,
    model: mujoco.MjModel,
    geoms: Sequence[int],
    materials: Sequence[int],
    rng: np.random.Generator,
    held_out: bool,
) -> Look:
    """Give the object a size and a surface; a mesh keeps its own."""
    if item.is_mesh:
        corners = np.concatenate([_vertices(model, geom) for geom in geoms])
        return Look(-float(corners[:, 2].min()), float(np.ptp(corners, axis=0).max()), NO_ALBEDO)
    half_m = np.exp(rng.uniform(np.log(SMALLEST_M), np.log(LARGEST_M), 3))
    if item.kind == "box" and rng.random() < 0.5:
        half_m[:] = half_m[0]
    size = {"box": half_m, "ball": [half_m[0], 0, 0]}.get(item.kind, [half_m[0], half_m[1], 0])
    rgb = np.array(colorsys.hsv_to_rgb(draw_hue(rng, held_out), rng.beta(2, 1), rng.uniform(0.15, 1.0)), np.float32)
    material = int(rng.choice(materials)) if rng.random() < TEXTURED else -1
    for geom in geoms:
        model.geom_size[geom] = size
        model.geom_rgba[geom] = [*rgb, 1.0]
        model.geom_matid[geom] = material
    half_height_m, size_m = _extent_m(item.kind, half_m)
    return Look(half_height_m, size_m, rgb if material < 0 else NO_ALBEDO)


def _vertices(model: mujoco.MjModel, geom: int) -> Float64[np.ndarray, "v 3"]:
    """A mesh geom's vertices in the frame of its body (m); none for another geom.

    robosuite's own `bottom_offset` is the height that it drops the object from, 1 to 3 cm too low.
    """
    mesh = int(model.geom_dataid[geom])
    if model.geom_type[geom] != mujoco.mjtGeom.mjGEOM_MESH or mesh < 0:
        return np.empty((0, 3))
    first = model.mesh_vertadr[mesh]
    turned = np.empty(9)
    mujoco.mju_quat2Mat(turned, model.geom_quat[geom])
    points = model.mesh_vert[first : first + model.mesh_vertnum[mesh]] @ turned.reshape(3, 3).T
    return points + model.geom_pos[geom]


def draw_hue(rng: np.random.Generator, held_out: bool) -> float:
    """A hue of the held-out bands, or of all the others."""
    while True:
        hue = rng.random()
        if any(low <= hue <= high for low, high in HELD_OUT_HUES) == held_out:
            return float(hue)


def _extent_m(kind: str, half_m: np.ndarray) -> tuple[float, float]:
    """(half the height, longest extent) of a primitive standing upright."""
    if kind == "box":
        return float(half_m[2]), 2 * float(half_m.max())
    if kind == "ball":
        return float(half_m[0]), 2 * float(half_m[0])
    half_length_m = float(half_m[1]) + (float(half_m[0]) if kind == "capsule" else 0.0)
    return half_length_m, 2 * max(float(half_m[0]), half_length_m)
