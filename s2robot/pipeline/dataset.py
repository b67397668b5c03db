"""Training data: tokens from the feature cache and the small arrays of a store, gathered by windows.

Dims: s steps of all episodes, w windows, o observation horizon, k chunk, n tokens, c channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from s2robot.data.actions import ActionChoice, absolute_spec, require_pose, to_absolute
from s2robot.data.checks import check_actions, standing_still
from s2robot.data.config import DataConfig
from s2robot.data.episodes import EpisodeStore
from s2robot.data.features import FeatureCache, FeatureKey
from s2robot.data.transforms import Normalise
from s2robot.data.windows import FlatEpisodes, Windows, flatten
from s2robot.encoders.interface import Encoder
from s2robot.errors import some
from s2robot.pipeline.tokens import Tokens, load_tokens, on_device
from s2robot.policies.batch import Batch, Inputs, Shapes
from s2robot.progress import say
from s2robot.types import ActionSpec, DatasetSpec

ACTION_FLOOR = 0.025  # of an element's range, where the spec limits it
POSE_FLOOR, PROPRIO_FLOOR = 0.05, 0.01  # of target poses (m, columns of a rotation) and of proprioception


@dataclass(frozen=True)
class Split:
    """Windows of some episodes over shared arrays; `tokens` by camera, where step s has row `token_row[s]`."""

    tokens: Mapping[str, Tokens]
    token_row: Int64[np.ndarray, " s"]
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
        steps = self.windows.observation[rows]
        chosen = np.repeat(views[:, None], steps.shape[1], axis=1)
        tokens = {camera: found.gather(chosen, self.token_row[steps]) for camera, found in self.tokens.items()}
        seen = on_device(steps, self.action.device)
        now = seen[:, -1]
        inputs = Inputs(tokens, self.proprio[seen], self.goal[now])
        action = self.action[on_device(self.windows.action[rows], self.action.device)]
        mask = on_device(self.windows.action_mask[rows], self.action.device)
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


def load_training_data(
    store: EpisodeStore,
    encoder: Encoder,
    cache: FeatureCache,
    config: DataConfig,
    device: torch.device,
    features: str = "auto",
) -> TrainingData:
    """Read features and arrays of the whole store; what `config` holds out is for validation.

    `features` is where tokens are kept: resident, streamed, or whichever fits (`tokens.load_tokens`). Raises
    S2RobotError naming `s2robot encode` where features are missing, and where actions or horizons make no sense.
    """
    flat, actions = checked_episodes(store), config.actions
    first_held_out = len(config.split(store)[0])
    encoded, tokens = flat.encoded(config.stride), {}
    for camera in config.cameras if encoder.sizes else ():
        keys = _keys(store, encoder, flat.ids, camera, config, first_held_out)
        tokens[camera] = load_tokens(cache, keys, encoded.starts, device, features)
    fitted = slice(int(flat.starts[first_held_out]))  # no statistic knows what is held out
    proprio = Normalise.fit(flat.proprio[fitted], floor=PROPRIO_FLOOR)
    acted, floor = flat.action, action_floor(store.spec.action)
    if actions.representation == "absolute":
        require_pose(store.spec.observation.proprio)
        acted, floor = to_absolute(flat.action, flat.proprio, store.spec.action), [POSE_FLOOR]
    action = Normalise.fit(acted[fitted], actions.normalise, floor)
    labels = flat.labels.get("target_pos_w")
    windows = config.windows(flat)
    train = Split(
        tokens=tokens,
        token_row=encoded.row,
        proprio=torch.from_numpy(proprio(flat.proprio)).to(device),
        goal=torch.from_numpy(np.repeat(flat.goal, flat.lengths, axis=0)).to(device),
        action=torch.from_numpy(action(acted)).to(device),
        object_xy=None if labels is None else torch.from_numpy(labels[:, :2].astype(np.float32)).to(device),
        windows=windows.select(windows.episode < first_held_out),
        ids=flat.ids,
    )
    return TrainingData(
        train=train,
        validation=replace(train, windows=windows.select(windows.episode >= first_held_out)),
        shapes=shapes_of(encoder, store.spec, config),
        proprio=proprio,
        action=action,
        actions=actions,
        token_statistics={c: _statistics(found, int(encoded.starts[first_held_out])) for c, found in tokens.items()},
    )


def action_floor(spec: ActionSpec) -> list[float]:
    """The least scale of each element, in its unit: ACTION_FLOOR of its range, POSE_FLOOR where it has no limits."""
    ranges = [high - low for low, high in zip(spec.low, spec.high, strict=True)]
    return [ACTION_FLOOR * width if 0 < width < inf else POSE_FLOOR for width in ranges]


def checked_episodes(store: EpisodeStore) -> FlatEpisodes:
    """All episodes without their frames. Raises S2RobotError for actions that make no sense, says what is doubtful."""
    flat = flatten(store)
    check_actions(flat, store.spec.action)
    if still := standing_still(flat):
        say(f"warning: one and the same action throughout {some(still)}; a policy learns that too")
    if failed := [name for name in flat.ids if not store.entry(name).success]:
        say(f"warning: {len(failed)} of {len(flat.ids)} episodes did not succeed and are imitated too: {some(failed)}")
    return flat


def shapes_of(encoder: Encoder, spec: DatasetSpec, config: DataConfig) -> Shapes:
    """What a policy on these data is built for."""
    absolute = config.actions.representation == "absolute"
    return Shapes(
        cameras=config.cameras if encoder.sizes else (),
        grid=encoder.grid,
        channels=encoder.channels,
        proprio=len(spec.observation.proprio),
        goal=len(spec.observation.goal),
        action=len((absolute_spec(spec.action) if absolute else spec.action).names),
        scales=max(1, len(encoder.sizes)),
    )


def _keys(
    store: EpisodeStore,
    encoder: Encoder,
    ids: Sequence[str],
    camera: str,
    config: DataConfig,
    first_held_out: int,
) -> list[list[FeatureKey]]:
    """Of every view of training, for every episode; held-out ones have their plain frames everywhere."""

    def key(index: int, view: int) -> FeatureKey:
        shown = view if index < first_held_out else 0
        return FeatureKey(encoder.fingerprint, store.fingerprint(ids[index]), camera, shown, config.stride)

    return [[key(index, view) for index in range(len(ids))] for view in config.view_ids]


def _statistics(tokens: Tokens, frames: int) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Mean and standard deviation per channel, from at most 4096 of the first `frames`, evenly spaced."""
    rows = np.arange(0, frames, -(-frames // 4096))[:, None]
    sums: list[Tensor] = []  # of every part, its rows, values and squares: a float32 copy of all would be gigabytes
    for part in np.array_split(rows, min(16, len(rows))):
        sample = tokens.gather(np.zeros_like(part), part).double().flatten(0, 2)
        sums.append(torch.stack([torch.full_like(sample[0], len(sample)), sample.sum(0), sample.square().sum(0)]))
    count, total, squares = torch.stack(sums).sum(0)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    return mean.float(), std.float().clamp(min=1e-3)
