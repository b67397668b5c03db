"""Small real episodes, the same for the same seed."""

from __future__ import annotations

import numpy as np

from s2robot.types import ActionSpec, CameraSpec, DatasetSpec, Episode, ObservationSpec

SPEC = DatasetSpec(
    task="reach",
    observation=ObservationSpec(
        cameras=(CameraSpec("front", 20, 24), CameraSpec("wrist", 16, 16)),
        proprio=("eef_x_m", "eef_y_m", "gripper_m"),
        goal=("target_x_m", "target_y_m"),
    ),
    action=ActionSpec(
        names=("dx", "dy"),
        units=("m", "m"),
        low=(-0.05, -0.05),
        high=(0.05, 0.05),
        frame="robot base",
        mode="delta",
        rotation="none",
        gripper="none",
        rate_hz=20.0,
    ),
    renderer={"offsamples": 0},
    source="test",
)


def make_episode(seed: int, steps: int = 6) -> Episode:
    """Random content that depends on seed and length alone; one camera starts with a black frame."""
    rng = np.random.default_rng(seed)
    images = {
        camera.name: rng.integers(0, 256, (steps, camera.height, camera.width, 3), dtype=np.uint8)
        for camera in SPEC.observation.cameras
    }
    images["front"][0] = 0
    return Episode(
        images=images,
        proprio=rng.normal(size=(steps, 3)).astype(np.float32),
        action=rng.normal(size=(steps, 2)).astype(np.float32),
        time_s=np.arange(steps) / 20.0,
        goal=rng.normal(size=2).astype(np.float32),
        success=bool(seed % 2),
        seed=seed,
        end="success" if seed % 2 else "horizon",
        sim_state=rng.normal(size=(steps, 5)),
        labels={"cube_pos_w_m": rng.normal(size=(steps, 3)), "touching": rng.integers(0, 2, steps).astype(bool)},
    )
