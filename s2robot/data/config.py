"""What training takes of a store: cameras, windows, views, and which episodes are held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from s2robot.data.actions import ActionChoice
from s2robot.data.episodes import EpisodeStore
from s2robot.data.windows import FlatEpisodes, Horizons, Windows
from s2robot.errors import S2RobotError


@dataclass(frozen=True)
class DataConfig:
    """Encoding and training read a store through the same one, so that what is encoded is what is read.

    Args:
        cameras: the streams that the policy looks at.
        horizons: of the policy's windows.
        views: randomly shifted views of every training frame to draw from; 0 for the plain frames.
        stride: windows are those of every `stride`-th step, so that no other frame has to be encoded.
        validation_fraction: of the episodes; the last ones by seed are held out.
        actions: what the policy predicts.

    Raises S2RobotError for numbers out of range and a stride that misses what a decision looks back at.
    """

    cameras: tuple[str, ...]
    horizons: Horizons = field(default_factory=Horizons)
    views: int = 1
    stride: int = 1
    validation_fraction: float = 0.05
    actions: ActionChoice = field(default_factory=ActionChoice)

    def __post_init__(self) -> None:
        if self.views < 0:
            raise S2RobotError(f"views={self.views}; give 0 for plain frames or how many shifted views to draw from")
        if not 0 < self.validation_fraction < 1:
            raise S2RobotError(f"validation_fraction={self.validation_fraction} must lie between 0 and 1")
        looks_back = self.horizons.observation > 1
        if self.stride < 1 or (looks_back and self.horizons.execute % self.stride):
            raise S2RobotError(
                f"stride={self.stride}: give 1 or more, and with observation_horizon={self.horizons.observation} a "
                f"divisor of execute={self.horizons.execute}, the steps between the observations of a decision"
            )

    @classmethod
    def of_policy(
        cls, policy: Mapping[str, Any], cameras: tuple[str, ...], views: int, stride: int, validation_fraction: float
    ) -> DataConfig:
        """With the horizons and the actions of a policy's configuration. Raises S2RobotError as the class does, and for
        keys and values of the policy that make no sense.
        """
        try:
            horizons = Horizons(*(int(policy[key]) for key in ("observation_horizon", "chunk", "execute")))
            actions = ActionChoice(**policy.get("actions", {}))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, S2RobotError):
                raise
            raise S2RobotError(
                f"policy {policy.get('name')}: {error}; observation_horizon, chunk and execute are whole numbers, "
                "actions has the keys representation and normalise"
            ) from error
        return cls(cameras, horizons, views, stride, validation_fraction, actions)

    @property
    def view_ids(self) -> range:
        """Of the views that training draws from: 1 to `views`, all shifted, or 0, the plain frames, alone."""
        return range(1, self.views + 1) if self.views else range(1)

    def split(self, store: EpisodeStore) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Ids of the episodes to train on and of those held out, at least one of each.

        Raises S2RobotError when that leaves nothing to train on.
        """
        held_out = max(1, round(self.validation_fraction * len(store)))
        if held_out >= len(store):
            raise S2RobotError(
                f"{store.path} has {len(store)} episodes, of which validation_fraction={self.validation_fraction} "
                f"holds out {held_out}: none is left to train on; collect more or hold out less"
            )
        return tuple(store.episodes[:-held_out]), tuple(store.episodes[-held_out:])

    def windows(self, flat: FlatEpisodes) -> Windows:
        """Of every `stride`-th step. Raises S2RobotError for horizons that no episode fills."""
        windows = flat.windows(self.horizons.observation, self.horizons.chunk, self.horizons.execute)
        return windows.select(flat.encoded(self.stride).kept[windows.observation[:, -1]])
