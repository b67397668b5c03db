"""Turn a robot's log into an episode store: `python examples/robot_log_to_store.py LOGS STORE`.

LOGS holds one folder per demonstration: log.npz with the arrays proprio (t, 3), action (t, 4), time_s (t,) and the
frames front/000000.png, front/000001.png, ...; frame t is what the camera saw just before action t.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from s2robot.data.episodes import EpisodeWriter
from s2robot.types import ActionSpec, CameraSpec, DatasetSpec, ObservationSpec

LOGS, STORE = map(Path, sys.argv[1:3])
SPEC = DatasetSpec(
    task="wipe the table",
    observation=ObservationSpec(
        cameras=(CameraSpec("front", height=224, width=224),),
        proprio=("eef_x_m", "eef_y_m", "eef_z_m"),
    ),
    action=ActionSpec(
        names=("dx", "dy", "dz", "gripper"),
        units=("m", "m", "m", "1"),
        low=(-0.02, -0.02, -0.02, -1.0),
        high=(0.02, 0.02, 0.02, 1.0),
        frame="robot base",
        mode="delta",
        rotation="none",
        gripper="+1 closes",
        rate_hz=20.0,
    ),
    source="my robot",
)

writer = EpisodeWriter(STORE, SPEC)
for number, folder in enumerate(sorted(LOGS.iterdir())):
    log = np.load(folder / "log.npz")
    with writer.episode(seed=number, success=True) as episode:
        for t, time_s in enumerate(log["time_s"]):
            front = np.asarray(Image.open(folder / f"front/{t:06d}.png").convert("RGB"))
            episode.add(images={"front": front}, proprio=log["proprio"][t], action=log["action"][t], time_s=time_s)
    print(f"{folder} -> {episode.id}")
