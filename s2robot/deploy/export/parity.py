"""Does a bundle do what its checkpoint does? Features and actions on recorded states, against torch, within tolerances.

Dims: m states, n tokens, c channels, k chunk, a action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from s2robot.data.config import DataConfig
from s2robot.data.episodes import EpisodeStore
from s2robot.deploy.bundle import Manifest, Precision
from s2robot.deploy.check import FRAMES, Check, FeatureDifference
from s2robot.deploy.runtime import BundlePolicy
from s2robot.encoders.interface import Encoder
from s2robot.errors import MismatchError, S2RobotError
from s2robot.policies.agent import Agent
from s2robot.policies.memory import EpisodeMemory
from s2robot.progress import progress
from s2robot.types import Observation


@dataclass(frozen=True)
class Tolerance:
    """How far a bundle may be from its checkpoint's own float32: `features` is the root mean square of the difference
    over that of the features; `action_mean` and `action_worst` are shares of an action element's range (its limits),
    the mean over all states and the worst state's worst element.
    """

    features: float
    action_mean: float
    action_worst: float


# Graphs in float32 round differently, no more. int8 rounds weights and activations to 8 bits: its features carry noise
# that the policy has to bear; the rollouts that follow say whether it does.
TOLERANCES: dict[Precision, Tolerance] = {
    "float32": Tolerance(features=1e-4, action_mean=1e-4, action_worst=1e-2),
    "float16": Tolerance(features=1e-2, action_mean=1e-3, action_worst=5e-2),
    "int8": Tolerance(features=0.15, action_mean=1e-2, action_worst=0.25),
}

FEWER = 1.5  # times the tolerance: what a handful of frames may stray by


@dataclass(frozen=True)
class Parity:
    """What was measured, in the units of `Tolerance`, and on how many states."""

    states: int
    features: float
    action_mean: float
    action_worst: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def recorded_states(store: EpisodeStore, count: int, fraction: float, held_out: bool) -> list[Observation]:
    """`count` observations, evenly spaced over the episodes that training held out (`fraction` of them, and others
    where those are too few), or over those that it used.

    Raises S2RobotError where the store has fewer.
    """
    train, validation = DataConfig((), validation_fraction=fraction).split(store)
    episodes = list(validation if held_out else train)
    while held_out and sum(store.entry(e).steps for e in episodes) < count and len(episodes) < len(store):
        episodes = list(store.episodes[-len(episodes) - 1 :])
    lengths = {episode: store.entry(episode).steps for episode in episodes}
    if sum(lengths.values()) < count:
        raise S2RobotError(
            f"{store.path} has {sum(lengths.values())} states to compare on, states={count} were asked for"
        )
    places = [(episode, step) for episode in episodes for step in range(lengths[episode])]
    wanted: dict[str, list[int]] = {}
    for row in np.linspace(0, len(places) - 1, count).astype(int):
        wanted.setdefault(places[row][0], []).append(places[row][1])
    found = []
    for name, steps in progress(wanted.items(), len(wanted), "read states", "episode"):
        episode = store.read(name)
        for step in steps:
            images = {camera: clip[step] for camera, clip in episode.images.items()}
            found.append(Observation(images, episode.proprio[step], episode.goal, float(episode.time_s[step])))
    return found


def measure(agent: Agent, bundle: BundlePolicy, states: list[Observation], scale: np.ndarray) -> Parity:
    """Both on the same states and the same noise, each state as if an episode began there.

    `scale` (a,) is the range of each action element.
    """
    features = FeatureDifference()
    errors = []
    for index, state in enumerate(progress(states, len(states), "parity", "state")):
        ours, theirs = agent.new_memory(), bundle.new_memory()
        noise = bundle.noise(index, 0)
        seen = agent.encode([state])[0]
        ours.push(seen)
        want = _chunk(agent, ours, noise)
        got = bundle.chunk(state, theirs, (index, 0))
        errors.append(np.abs(got - want) / scale)
        for camera in bundle.cameras:
            features.add(theirs.steps()[-1].tokens[camera], seen.tokens[camera].numpy())
    stacked = np.stack(errors)
    return Parity(len(states), features.relative_rms, float(stacked.mean()), float(stacked.max()))


def require_within(parity: Parity, tolerance: Tolerance, what: str) -> None:
    """Raise MismatchError naming what lies outside."""
    for name in ("features", "action_mean", "action_worst"):
        found, allowed = getattr(parity, name), getattr(tolerance, name)
        if not found <= allowed:
            raise MismatchError(
                f"{what} differs from its checkpoint: {name} {found:.2g} on {parity.states} states, allowed "
                f"{allowed:g}; nothing was written"
            )


def action_scale(scale: Sequence[float], manifest: Manifest) -> np.ndarray:
    """Range of each element of what the policy puts out: its limits, or twice the normaliser's `scale` where target
    poses have none.
    """
    if manifest.decisions.representation == "absolute":
        return 2.0 * np.array(scale)
    return np.array(manifest.identity.action.high) - np.array(manifest.identity.action.low)


def check_of(
    states: Sequence[Observation],
    cameras: Sequence[str],
    encode: Callable[[UInt8[np.ndarray, "h w 3"]], Float32[np.ndarray, "n c"]],
    precision: Precision,
) -> Check:
    """A few of the states, evenly spaced, with the tokens that torch's `encode` makes of their frames. They may stray
    somewhat further than all states together.
    """
    rows = np.unique(np.linspace(0, len(states) - 1, FRAMES).astype(int))
    frames = {camera: np.stack([states[row].images[camera] for row in rows]) for camera in cameras}
    tokens = {camera: np.stack([encode(frame) for frame in clip]) for camera, clip in frames.items()}
    return Check(frames, tokens, FEWER * TOLERANCES[precision].features)


@torch.no_grad()
def torch_tokens(encoder: Encoder, frame: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "n c"]:
    """Of one frame as a camera delivers it."""
    return encoder(torch.from_numpy(frame).permute(2, 0, 1)[None]).tokens[0].float().numpy()


@torch.no_grad()
def _chunk(agent: Agent, memory: EpisodeMemory, noise: np.ndarray) -> np.ndarray:
    out = agent.policy.sample(agent.inputs([memory]), torch.from_numpy(noise)[None].to(agent.device))
    return agent.unnormalise(out.cpu().numpy())[0]
