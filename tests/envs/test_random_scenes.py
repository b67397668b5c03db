"""Pre-training frames: a function of their seed, labels that fit the picture, and never a task's seed."""

from __future__ import annotations

import colorsys

import mujoco
import numpy as np
import pytest

from s2robot.envs.random_scenes import FIRST_OBJECT, FIRST_SEED, ITEMS, NUM_OBJECTS, ROBOT, SceneGenerator
from s2robot.envs.scene_objects import HELD_OUT_HUES, HELD_OUT_KINDS, KIND_NAMES
from s2robot.envs.world import TABLE_HEIGHT_M
from s2robot.errors import S2RobotError


@pytest.fixture(scope="module")
def generator() -> SceneGenerator:
    return SceneGenerator(frame_px=96)


def test_a_frame_is_a_function_of_its_seed(generator: SceneGenerator) -> None:
    first = generator.scene(FIRST_SEED + 3)
    generator.scene(FIRST_SEED + 4)
    again = generator.scene(FIRST_SEED + 3)
    for key in ("rgb", "code", "depth_m", "centre_px", "robot_px", "albedo"):
        np.testing.assert_array_equal(getattr(first, key), getattr(again, key))


def test_projected_centres_lie_on_their_objects(generator: SceneGenerator) -> None:
    hits, visible = 0, 0
    for seed in range(30):
        scene = generator.scene(FIRST_SEED + seed)
        for i in range(NUM_OBJECTS):
            x, y = scene.centre_px[i]
            pixels = np.argwhere(scene.code == FIRST_OBJECT + i)
            if len(pixels) < 30:
                continue  # hidden, outside or nearly covered
            visible += 1
            middle_y, middle_x = pixels.mean(0) + 0.5
            hits += np.hypot(middle_x - x, middle_y - y) < 0.5 * np.sqrt(len(pixels)) + 2
    assert visible > 40
    assert hits / visible > 0.85  # partly covered objects are off centre


def test_objects_that_a_frame_leaves_out_have_no_centre_and_no_pixels(generator: SceneGenerator) -> None:
    for seed in range(10):
        scene = generator.scene(FIRST_SEED + seed)
        gone = scene.size_m == 0
        assert not np.isin(scene.code, FIRST_OBJECT + np.flatnonzero(gone)).any()


def test_depth_is_metric(generator: SceneGenerator) -> None:
    depth = np.concatenate([generator.scene(FIRST_SEED + seed).depth_m.ravel() for seed in range(5)]).astype(float)
    assert 0.005 < np.percentile(depth, 1) < 1.0  # a wrist camera may stand close before a bottle
    assert 0.3 < np.median(depth) < 3.0


def test_held_out_kinds_and_hues_appear_only_where_they_are_asked_for() -> None:
    shown: dict[bool, set[str]] = {}
    for held_out in (False, True):
        generator = SceneGenerator(frame_px=32, held_out=held_out)
        shown[held_out] = set()
        for seed in range(60):
            scene = generator.scene(FIRST_SEED + seed)
            shown[held_out] |= {KIND_NAMES[kind] for kind in scene.kind[scene.size_m > 0]}
            for rgb in scene.albedo[~np.isnan(scene.albedo[:, 0])]:
                hue, saturation, value = colorsys.rgb_to_hsv(*map(float, rgb))
                if saturation * value > 0.05:  # greys have no hue
                    inside = any(low - 1e-3 <= hue <= high + 1e-3 for low, high in HELD_OUT_HUES)
                    edge = min(abs(hue - end) for band in HELD_OUT_HUES for end in band) < 2e-3
                    assert inside == held_out or edge
    assert shown[False] == set(KIND_NAMES) - set(HELD_OUT_KINDS)
    assert shown[True] == set(KIND_NAMES)


def test_sizes_are_what_the_picture_shows(generator: SceneGenerator) -> None:
    """The longest extent, seen from its distance, bounds the object's silhouette."""
    ratios = []
    for seed in range(40):
        scene = generator.scene(FIRST_SEED + seed)
        for i in np.flatnonzero(scene.size_m > 0):
            rows, columns = np.nonzero(scene.code == FIRST_OBJECT + i)
            if len(rows) < 40 or min(rows.min(), columns.min()) == 0 or max(rows.max(), columns.max()) == 95:
                continue  # small, or cut off by the frame
            depth_m = float(np.median(scene.depth_m[rows, columns].astype(np.float32)))
            across_px = np.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1)
            ratios.append(across_px * depth_m / scene.size_m[i])
    focal_px = 0.5 * 96 / np.tan(0.5 * np.radians([35, 60]))
    assert len(ratios) > 40
    assert np.percentile(ratios, 95) < 2.0 * focal_px.max()
    assert np.median(ratios) > 0.5 * focal_px.min()


def test_the_grip_site_is_projected_onto_the_robot(generator: SceneGenerator) -> None:
    near, asked = 0, 0
    for seed in range(60):
        scene = generator.scene(FIRST_SEED + seed)
        x, y = scene.robot_px[-1]
        if not (8 < x < 88 and 8 < y < 88):
            continue
        rows, columns = np.nonzero(scene.code == ROBOT)
        asked += 1
        near += len(rows) > 0 and np.hypot(rows - y, columns - x).min() < 12
    assert asked > 15
    assert near / asked > 0.8  # something may stand before it


def test_what_is_said_to_touch_the_table_touches_it(generator: SceneGenerator) -> None:
    """The lowest pixel of geometry, not of the picture: contact is what the probe asks about."""
    for seed in range(25):
        scene = generator.scene(FIRST_SEED + seed)
        for i in np.flatnonzero((scene.size_m > 0) & ~scene.lifted):
            lowest = min(_lowest_m(generator, geom) for geom in generator._geoms[i])
            assert abs(lowest - TABLE_HEIGHT_M) < 1.5e-3, ITEMS[i]
        for i in np.flatnonzero(scene.lifted):
            assert min(_lowest_m(generator, geom) for geom in generator._geoms[i]) > TABLE_HEIGHT_M - 0.05


def _lowest_m(generator: SceneGenerator, geom: int) -> float:
    """World height of the lowest point of a visual geom; infinite for one that is not drawn."""
    model, data = generator.model, generator.data
    if model.geom_group[geom] != 1:
        return np.inf
    up = data.geom_xmat[geom].reshape(3, 3)[2]
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
        mesh = model.geom_dataid[geom]
        first = model.mesh_vertadr[mesh]
        points = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
        return float((points @ up).min() + data.geom_xpos[geom, 2])
    size = model.geom_size[geom]
    reach = {
        mujoco.mjtGeom.mjGEOM_BOX: np.abs(up) @ size,
        mujoco.mjtGeom.mjGEOM_SPHERE: size[0],
        mujoco.mjtGeom.mjGEOM_CYLINDER: abs(up[2]) * size[1] + np.hypot(up[0], up[1]) * size[0],
        mujoco.mjtGeom.mjGEOM_CAPSULE: abs(up[2]) * size[1] + size[0],
    }[mujoco.mjtGeom(model.geom_type[geom])]
    return float(data.geom_xpos[geom, 2] - reach)


def test_a_task_seed_is_refused(generator: SceneGenerator) -> None:
    with pytest.raises(S2RobotError, match="belongs to the tasks"):
        generator.scene(20_000)


def test_layout_palette_sizes_and_camera_are_never_jointly_a_tasks(generator: SceneGenerator) -> None:
    from s2robot.envs.pick_cube import PALETTE
    from s2robot.envs.random_scenes import CAMERA, WRIST_CAMERA

    model, palette = generator.model, np.array(list(PALETTE.values()))
    agentview = model.camera("agentview").id
    wrist_pose = generator._wrist_pose[0]
    sizes = set()
    for seed in range(200):
        scene = generator.scene(FIRST_SEED + seed)
        colours = scene.albedo[~np.isnan(scene.albedo[:, 0])]
        nearest = np.abs(colours[:, None] - palette).max(-1).min(1)
        assert (nearest > 0.02).any() or len(colours) < 2, "no scene wears the tasks' palette"
        wrist_before = model.cam_pos[model.camera(WRIST_CAMERA).id].copy()
        generator.scene(FIRST_SEED + seed + 1_000)
        used_wrist = not np.array_equal(model.cam_pos[model.camera(WRIST_CAMERA).id], wrist_before)
        if used_wrist:
            assert np.linalg.norm(model.cam_pos[model.camera(WRIST_CAMERA).id] - wrist_pose) > 1e-4
        else:
            assert np.linalg.norm(model.cam_pos[model.camera(CAMERA).id] - model.cam_pos[agentview]) > 0.02
        sizes.add(tuple(np.round(model.geom_size[generator._geoms[0][0]], 4)))
    assert len(sizes) > 50
