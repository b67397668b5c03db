"""An episode in the making, step by step, as a robot's log gives it.

Dims: h w image height and width (px).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from s2robot.errors import S2RobotError
from s2robot.types import EndReason, Episode


class EpisodeRecorder:
    """The steps of an episode in the making; see `EpisodeWriter.episode`."""

    def __init__(self, *, seed: int, goal: Sequence[float], success: bool, end: EndReason | None) -> None:
        self.seed, self.goal, self.success, self.end = seed, goal, success, end
        self.id: str | None = None
        self._steps: list[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, float]] = []

    def add(
        self,
        *,
        images: Mapping[str, UInt8[np.ndarray, "h w 3"]],
        proprio: Sequence[float] | np.ndarray,
        action: Sequence[float] | np.ndarray,
        time_s: float,
    ) -> None:
        """One step: what the robot saw and measured, and the action it then took."""
        frames = {camera: np.array(frame) for camera, frame in images.items()}  # a camera reuses its buffer
        if self._steps and set(frames) != set(self._steps[0][0]):
            raise S2RobotError(
                f"step {len(self._steps)} has cameras {sorted(frames)}, the first step had "
                f"{sorted(self._steps[0][0])}; give every camera at every step"
            )
        self._steps.append((frames, np.array(proprio, np.float32), np.array(action, np.float32), float(time_s)))

    def to_episode(self) -> Episode:
        """The whole episode. Raises S2RobotError when it has no steps or the steps differ in shape."""
        if not self._steps:
            raise S2RobotError("the episode has no steps; call add(...) at least once")
        try:
            return Episode(
                images={camera: np.stack([step[0][camera] for step in self._steps]) for camera in self._steps[0][0]},
                proprio=np.stack([step[1] for step in self._steps]),
                action=np.stack([step[2] for step in self._steps]),
                time_s=np.array([step[3] for step in self._steps], np.float64),
                goal=np.array(self.goal, np.float32),
                success=self.success,
                seed=self.seed,
                end=self.end or ("success" if self.success else "horizon"),
            )
        except ValueError as error:
            raise S2RobotError(f"the steps differ in shape ({error}); give the same shapes at every step") from error
