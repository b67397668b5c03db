"""Windows of demonstrations: which steps a policy sees and which actions it has to predict, as index arrays.

Dims: w windows, e episodes, s steps of all episodes laid end to end, o observation horizon, k action chunk,
p proprioception, a action, g goal.

Nothing is copied per window. Arrays of all episodes lie end to end, `starts` says where each begins, and a batch is
one gather: `proprio[windows.observation[batch]]` is (b, o, p), `action[windows.action[batch]]` is (b, k, a).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped

from s2robot.data.episodes import EpisodeStore
from s2robot.errors import S2RobotError


@dataclass(frozen=True)
class Horizons:
    """In steps: observations a decision sees, actions it predicts, and how many of them are executed before the next
    decision, which is also how far apart its observations lie.
    """

    observation: int = 1
    chunk: int = 8
    execute: int = 4

    def __post_init__(self) -> None:
        if self.observation < 1 or not 1 <= self.execute <= self.chunk:
            raise S2RobotError(
                f"observation_horizon={self.observation}, execute={self.execute}, chunk={self.chunk}: the first must "
                "be at least 1, and execute between 1 and chunk"
            )


@dataclass(frozen=True)
class Windows:
    """One window per step of every episode. All numbers are rows of the flat arrays, except `episode` and `step`.

    `observation` ends at the window's step; `action` begins there. `action_mask` is False where an action is padding.
    """

    observation: Int64[np.ndarray, "w o"]
    action: Int64[np.ndarray, "w k"]
    action_mask: Bool[np.ndarray, "w k"]
    episode: Int64[np.ndarray, " w"]
    step: Int64[np.ndarray, " w"]

    def __len__(self) -> int:
        return len(self.step)

    def select(self, keep: Bool[np.ndarray, " w"]) -> Windows:
        """The windows where `keep` is True."""
        return Windows(
            self.observation[keep], self.action[keep], self.action_mask[keep], self.episode[keep], self.step[keep]
        )


def make_windows(
    lengths: Sequence[int], observation_horizon: int, action_chunk: int, observation_stride: int = 1
) -> Windows:
    """Windows over episodes of the given lengths (steps).

    Observations lie `observation_stride` steps apart: a policy that executes four actions sees every fourth step.
    A window never leaves its episode: before the first step the first observation is repeated, after the last one
    the last action is repeated and masked. Raises S2RobotError for an empty episode or a horizon below one.
    """
    if observation_horizon < 1 or action_chunk < 1 or observation_stride < 1:
        raise S2RobotError(
            f"observation_horizon={observation_horizon}, action_chunk={action_chunk} and "
            f"observation_stride={observation_stride} must all be at least 1"
        )
    sizes = np.asarray(lengths, np.int64)
    if len(sizes) == 0 or sizes.min() < 1:
        raise S2RobotError(f"windows need episodes of at least one step, got lengths {list(lengths)[:10]}")
    # Lengths (3, 2), observation_horizon 2, action_chunk 3. Steps end to end: 0 1 2 | 3 4, starts 0 3.
    #   episode  step   observation   action    action_mask
    #      0      0        0 0        0 1 2     1 1 1        the first observation stands in for the one before it
    #      0      1        0 1        1 2 2     1 1 0        the last action is repeated and does not count
    #      0      2        1 2        2 2 2     1 0 0
    #      1      0        3 3        3 4 4     1 1 0        never 2, which is another episode
    #      1      1        3 4        4 4 4     1 0 0
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    episode = np.repeat(np.arange(len(sizes)), sizes)
    row = np.arange(sizes.sum())
    first, last = starts[episode][:, None], (starts + sizes - 1)[episode][:, None]
    observation = row[:, None] + observation_stride * np.arange(1 - observation_horizon, 1)  # (w, o)
    action = row[:, None] + np.arange(action_chunk)  # (w, k)
    return Windows(
        observation=np.maximum(observation, first),
        action=np.minimum(action, last),
        action_mask=action <= last,
        episode=episode,
        step=row - first[:, 0],
    )


@dataclass(frozen=True)
class EncodedSteps:
    """Every `stride`-th step of each episode, from its first: those whose frames have tokens.

    `kept` says which of all steps they are; among them a step's tokens lie at `row`, and episodes begin at `starts`.
    """

    # Lengths (3, 2), stride 2. Steps end to end: 0 1 2 | 3 4.
    #   kept 1 0 1 1 0    row 0 0 1 2 2    starts 0 2 3
    kept: Bool[np.ndarray, " s"]
    row: Int64[np.ndarray, " s"]
    starts: Int64[np.ndarray, " e_plus_1"]


@dataclass(frozen=True)
class FlatEpisodes:
    """The small arrays of several episodes laid end to end, ready to be gathered by `Windows`.

    Episode i owns rows starts[i]:starts[i + 1]; `goal` and `ids` have one row per episode. Frames are left out: their
    tokens come from the feature cache, in the same order of steps.
    """

    ids: tuple[str, ...]
    starts: Int64[np.ndarray, " e_plus_1"]
    proprio: Float32[np.ndarray, "s p"]
    action: Float32[np.ndarray, "s a"]
    goal: Float32[np.ndarray, "e g"]
    labels: dict[str, Shaped[np.ndarray, "s ..."]]

    @property
    def lengths(self) -> Int64[np.ndarray, " e"]:
        """Steps of each episode."""
        return np.diff(self.starts)

    def encoded(self, stride: int) -> EncodedSteps:
        """The steps of which tokens are needed."""
        kept = (np.arange(self.starts[-1]) - np.repeat(self.starts[:-1], self.lengths)) % stride == 0
        row = np.cumsum(kept) - 1
        return EncodedSteps(kept, row, np.append(row[self.starts[:-1]], kept.sum()))

    def windows(self, observation_horizon: int, action_chunk: int, observation_stride: int = 1) -> Windows:
        """Windows over these episodes; see `make_windows`.

        Raises S2RobotError for horizons that no episode fills: every window would be made of repetitions.
        """
        longest, seen = int(self.lengths.max()), (observation_horizon - 1) * observation_stride + 1
        if max(action_chunk, seen) > longest:
            raise S2RobotError(
                f"chunk={action_chunk} and observation_horizon={observation_horizon}, execute={observation_stride} "
                f"steps apart, reach over {action_chunk} and {seen} steps, the longest episode has {longest}; give "
                "shorter horizons"
            )
        return make_windows(self.lengths.tolist(), observation_horizon, action_chunk, observation_stride)


def flatten(store: EpisodeStore, episodes: Sequence[str] | None = None) -> FlatEpisodes:
    """Read the small arrays of the given episodes (all by default). Labels are kept when every episode has them.

    Raises DamagedError when an episode is damaged, S2RobotError when there are none.
    """
    ids = tuple(store.episodes if episodes is None else episodes)
    if not ids:
        raise S2RobotError(f"no episodes of {store.path} were chosen; give at least one id")
    parts = [store.read(episode, images=False) for episode in ids]
    shared = set.intersection(*(set(part.labels) for part in parts))
    return FlatEpisodes(
        ids=ids,
        starts=np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64),
        proprio=np.concatenate([part.proprio for part in parts]),
        action=np.concatenate([part.action for part in parts]),
        goal=np.stack([part.goal for part in parts]),
        labels={name: np.concatenate([part.labels[name] for part in parts]) for name in sorted(shared)},
    )
