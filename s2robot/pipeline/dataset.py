"""Training data in memory: tokens from the feature cache and the small arrays of a store, gathered by windows.

Dims: s steps of all episodes, w windows, o observation horizon, k chunk, n tokens, c channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from s2robot.data.actions import ActionChoice, to_absolute
from s2robot.data.episodes import EpisodeStore
from s2robot.data.features import FeatureCache, FeatureKey
from s2robot.data.transforms import Normalise
from s2robot.data.windows import FlatEpisodes, Horizons, Windows, flatten, split_episodes, training_views
from s2robot.encoders.interface import Encoder
from s2robot.policies.batch import Batch, Inputs, Shapes

ACTION_FLOOR, PROPRIO_FLOOR = 0.05, 0.01
DELTA = ActionChoice()


@dataclass(frozen=True)
class Split:
    """Windows of some episodes over shared tensors. `tokens[camera][view]` lies on the training device in float16.

    `view` counts the views of training; held-out episodes have plain frames at 0 and nothing elsewhere.
    """

    tokens: Mapping[str, Float[Tensor, "v s n c"]]
    proprio: Float[Tensor, "s p"]
    goal: Float[Tensor, "s g"]
    action: Float[Tensor, "s a"]
    object_xy: Float[Tensor, "s 2"] | None
    windows: Windows
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.windows)

    def gather(self, rows: Int64[np.ndarray, " b"], views: Int64[np.ndarray, " b"]) -> Batch:
        """The batch of the given windows, each seen through the given view."""
        seen = torch.from_numpy(self.windows.observation[rows])
        chosen = torch.from_numpy(views)[:, None].expand_as(seen)
        now = seen[:, -1]
        inputs = Inputs(
            {camera: tokens[chosen, seen] for camera, tokens in self.tokens.items()}, self.proprio[seen], self.goal[now]
        )
        action = self.action[torch.from_numpy(self.windows.action[rows])]
        mask = torch.from_numpy(self.windows.action_mask[rows]).to(action.device)
        return Batch(inputs, action, mask, None if self.object_xy is None else self.object_xy[now])

    def episodes(self, rows: Int64[np.ndarray, " b"]) -> list[str]:
        """Ids of the episodes that windows belong to, each once."""
        return [self.ids[i] for i in sorted(set(self.windows.episode[rows].tolist()))]


@dataclass(frozen=True)
class TrainingData:
    """Both splits with everything a checkpoint has to carry to be used again."""

    train: Split
    validation: Split
    shapes: Shapes
    proprio: Normalise
    action: Normalise
    actions: ActionChoice
    token_statistics: Mapping[str, tuple[Tensor, Tensor]]
    dataset_fingerprint: str


def load_training_data(
    store: EpisodeStore,
    encoder: Encoder,
    cache: FeatureCache,
    cameras: Sequence[str],
    views: int,
    horizons: Horizons,
    validation_fraction: float,
    device: torch.device,
    actions: ActionChoice = DELTA,
) -> TrainingData:
    """Read features and arrays of the whole store; the last episodes (by seed) are held out for validation.

    Raises S2RobotError naming `s2robot encode` where features are missing.
    """
    seen = tuple(cameras) if encoder.sizes else ()
    flat = flatten(store)
    first_held_out = len(split_episodes(store, validation_fraction)[0])
    tokens = {camera: _tokens(store, encoder, cache, flat, camera, views, first_held_out).to(device) for camera in seen}
    proprio = Normalise.fit(flat.proprio, floor=PROPRIO_FLOOR)
    acted = flat.action
    if actions.representation == "absolute":
        acted = to_absolute(flat.action, flat.proprio, store.spec.action)
    action = Normalise.fit(acted, actions.normalise, ACTION_FLOOR)
    labels = flat.labels.get("target_pos_w")
    windows = flat.windows(horizons.observation, horizons.chunk, horizons.execute)
    train = Split(
        tokens=tokens,
        proprio=torch.from_numpy(proprio(flat.proprio)).to(device),
        goal=torch.from_numpy(np.repeat(flat.goal, flat.lengths, axis=0)).to(device),
        action=torch.from_numpy(action(acted)).to(device),
        object_xy=None if labels is None else torch.from_numpy(labels[:, :2].astype(np.float32)).to(device),
        windows=_select(windows, windows.episode < first_held_out),
        ids=flat.ids,
    )
    return TrainingData(
        train=train,
        validation=replace(train, windows=_select(windows, windows.episode >= first_held_out)),
        shapes=Shapes(
            cameras=seen,
            grid=encoder.grid,
            channels=encoder.channels,
            proprio=flat.proprio.shape[1],
            goal=flat.goal.shape[1],
            action=acted.shape[1],
            scales=max(1, len(encoder.sizes)),
        ),
        proprio=proprio,
        action=action,
        actions=actions,
        token_statistics={camera: _statistics(t[0, : flat.starts[first_held_out]]) for camera, t in tokens.items()},
        dataset_fingerprint=store.dataset_fingerprint(),
    )


def _tokens(
    store: EpisodeStore,
    encoder: Encoder,
    cache: FeatureCache,
    flat: FlatEpisodes,
    camera: str,
    views: int,
    first_held_out: int,
) -> Float[Tensor, "v s n c"]:
    """All views of one camera, written straight into one block: features are the largest thing in memory."""
    rows, columns = encoder.grid
    shifted = training_views(views)
    block = torch.empty(len(shifted), int(flat.starts[-1]), rows * columns, encoder.channels, dtype=torch.float16)
    for i, (episode, start, stop) in enumerate(zip(flat.ids, flat.starts[:-1], flat.starts[1:], strict=True)):
        for place, view in enumerate(shifted if i < first_held_out else (0,)):
            key = FeatureKey(encoder.fingerprint, store.fingerprint(episode), camera, view)
            block[place, start:stop] = torch.from_numpy(cache.read(key).tokens)
    return block


def _statistics(tokens: Float[Tensor, "s n c"]) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Mean and standard deviation per channel, from at most 4096 evenly spaced frames."""
    sample = tokens[:: max(1, len(tokens) // 4096)].float().flatten(0, 1)
    return sample.mean(0), sample.std(0).clamp(min=1e-3)


def _select(windows: Windows, keep: np.ndarray) -> Windows:
    return Windows(
        windows.observation[keep],
        windows.action[keep],
        windows.action_mask[keep],
        windows.episode[keep],
        windows.step[keep],
    )
