"""Pre-training frames: a function of their seed, labels that fit the picture, and never a task's seed."""

from __future__ import annotations

import numpy as np
import pytest

from s2robot.envs.random_scenes import FIRST_OBJECT, FIRST_SEED, NUM_OBJECTS, SceneGenerator
from s2robot.errors import S2RobotError


@pytest.fixture(scope="module")
def generator() -> SceneGenerator:
    return SceneGenerator(frame_px=96)


def test_a_frame_is_a_function_of_its_seed(generator: SceneGenerator) -> None:
    first = generator.scene(FIRST_SEED + 3)
    generator.scene(FIRST_SEED + 4)
    again = generator.scene(FIRST_SEED + 3)
    for key in ("rgb", "code", "depth_m", "centre_px", "albedo"):
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
        gone = np.isnan(scene.centre_px[:, 0]) & (scene.albedo.sum(1) == 0)
        assert not np.isin(scene.code, FIRST_OBJECT + np.flatnonzero(gone)).any()


def test_depth_is_metric(generator: SceneGenerator) -> None:
    depth = np.concatenate([generator.scene(FIRST_SEED + seed).depth_m.ravel() for seed in range(5)]).astype(float)
    assert 0.02 < np.percentile(depth, 1) < 1.0
    assert 0.3 < np.median(depth) < 3.0


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
        colours = scene.albedo[~np.isnan(scene.centre_px[:, 0])]
        nearest = np.abs(colours[:, None] - palette).max(-1).min(1)
        assert (nearest > 0.02).any() or len(colours) < 2, "no scene wears the tasks' palette"
        room = np.linalg.norm(model.cam_pos[model.camera(CAMERA).id] - model.cam_pos[agentview])
        wrist = np.linalg.norm(model.cam_pos[model.camera(WRIST_CAMERA).id] - wrist_pose)
        assert room > 0.02 or wrist > 1e-4
        sizes.add(tuple(np.round(model.geom_size[generator._geoms[0][0]], 4)))
    assert len(sizes) > 50
