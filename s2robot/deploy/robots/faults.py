"""What can go wrong with the simulated arm and its line, on demand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from s2robot.deploy.parse import parse
from s2robot.errors import unknown_name

JOINTS = 7  # of the arm


@dataclass(frozen=True)
class Faults:
    """What goes wrong, all at random from one seed. Rates are per message; times in s.

    Args:
        proprio_noise: standard deviation added to proprioception, in the unit of each element.
        latency_s: everything that the robot sends is late by so much.
        jitter_s: and by up to so much more.
        drop_frames: share of camera frames that are lost.
        frozen: a camera that goes on counting but shows an old picture.
        stopped: a camera that sends nothing any more.
        stuck_joint: of the arm, 0 to 6.
        cut: the cable: nothing comes out any more, and nothing gets in.
    """

    proprio_noise: float = 0.0
    latency_s: float = 0.0
    jitter_s: float = 0.0
    drop_frames: float = 0.0
    frozen: str | None = None
    stopped: str | None = None
    stuck_joint: int | None = None
    cut: bool = False

    def __post_init__(self) -> None:
        if min(self.proprio_noise, self.latency_s, self.jitter_s, self.drop_frames) < 0 or self.drop_frames > 1:
            raise ValueError("proprio_noise, latency_s and jitter_s are 0 or more, drop_frames is 0 to 1")
        if self.stuck_joint is not None and not 0 <= self.stuck_joint < JOINTS:
            raise ValueError(f"stuck_joint is 0 to {JOINTS - 1}, {self.stuck_joint} came")

    def changed(self, changes: Mapping[str, Any], cameras: Iterable[str]) -> Faults:
        """Raises S2RobotError for a fault, or a camera, that does not exist, and for values of another kind."""
        for name in changes:
            if name not in asdict(self):
                raise unknown_name("fault", name, asdict(self))
        faults = parse(Faults, {**asdict(self), **changes}, "faults", "see docs/deployment.md, robot=sim")
        for camera in {faults.frozen, faults.stopped} - {None, *cameras}:
            raise unknown_name("camera", str(camera), cameras)
        return faults
