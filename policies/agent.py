"""A checkpoint in action: frozen encoder, policy and normalisers behind `infer(observation)` and `reset()`.

A frame goes through the encoder once: an episode's `TokenWindow` keeps the tokens of the observations that the
policy still looks back at.

Dims: b decisions, n tokens, c channels, k chunk, a action, p proprioception, g goal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from s2robot.data.transforms import Normalise
from s2robot.encoders.interface import Encoder
from s2robot.policies.batch import Inputs
from s2robot.policies.policy import ChunkPolicy
from s2robot.types import Observation


class Seen(NamedTuple):
    """One observation as the policy reads it: tokens by camera, normalised proprioception, goal."""

    tokens: Mapping[str, Float[Tensor, "n c"]]
    proprio: Float32[np.ndarray, " p"]
    goal: Float32[np.ndarray, " g"]


class TokenWindow:
    """Ring buffer over the last `horizon` observations of one episode; the first stands in for those before it."""

    def __init__(self, horizon: int) -> None:
        self._steps: deque[Seen] = deque(maxlen=horizon)

    def push(self, seen: Seen) -> None:
        """The newest observation; the oldest falls out once the window is full."""
        self._steps.extend([seen] * (1 if self._steps else self._steps.maxlen or 1))

    def steps(self) -> list[Seen]:
        """Oldest first, `horizon` of them; none before the first push."""
        return list(self._steps)


class Agent:
    """What `infer` needs besides the observation: nothing. One instance may serve many episodes through `infer_batch`.

    Args:
        encoder: the frozen encoder that the policy was trained on.
        policy: the trained policy.
        proprio: normaliser of proprioception.
        action: normaliser of actions; its inverse turns the policy's output into commands.
        cameras: the streams that the policy looks at; empty for a blind one.
        rows: decisions go through encoder and policy in groups of exactly this many, the last one filled up. Matrix
            products of another shape may round differently; with one shape no result depends on its neighbours.
    """

    def __init__(
        self,
        encoder: Encoder,
        policy: ChunkPolicy,
        proprio: Normalise,
        action: Normalise,
        cameras: Sequence[str],
        rows: int = 1,
    ) -> None:
        self.encoder, self.policy = encoder, policy.eval()
        self.proprio, self.unnormalise = proprio, action.inverse()
        self.cameras, self.rows = tuple(cameras), rows
        self.reset()

    @property
    def device(self) -> torch.device:
        """Where the policy computes."""
        return next(self.policy.parameters()).device

    def reset(self) -> None:
        """Forget the episode."""
        self._window = self.new_window()
        self._decisions = 0

    def new_window(self) -> TokenWindow:
        """An empty window of an episode that begins."""
        return TokenWindow(self.policy.observation_horizon)

    def infer(self, observation: Observation) -> Float32[np.ndarray, "k a"]:
        """The chunk to execute from here, in the action spec's units, cut to the executed horizon."""
        chunk = self.infer_batch([observation], [self._window], [(0, self._decisions)])[0]
        self._decisions += 1
        return chunk

    @torch.no_grad()
    def infer_batch(
        self, observations: Sequence[Observation], windows: Sequence[TokenWindow], keys: Sequence[tuple[int, int]]
    ) -> Float32[np.ndarray, "b k a"]:
        """Chunks for several episodes at once: their newest observations, which are encoded and pushed into their
        windows. `keys` (episode seed, decision) seed each row's noise, so that a row's chunk is the same whatever else
        is in the batch.
        """
        for window, seen in zip(windows, self.encode(observations), strict=True):
            window.push(seen)
        chunks = []
        for start in range(0, len(windows), self.rows):
            group, names = list(windows[start : start + self.rows]), list(keys[start : start + self.rows])
            count = len(group)
            group += [group[0]] * (self.rows - count)
            names += [names[0]] * (self.rows - count)
            noise = torch.stack([self._noise(*name) for name in names]).to(self.device)
            chunk = self.policy.sample(self.inputs(group), noise)[:count]
            chunks.append(self.unnormalise(chunk.cpu().numpy()))
        return np.concatenate(chunks)[:, : self.policy.execute]

    def inputs(self, windows: Sequence[TokenWindow]) -> Inputs:
        """What the policy reads of windows that have seen something."""
        steps = [window.steps() for window in windows]
        tokens = {
            camera: torch.stack([torch.stack([seen.tokens[camera] for seen in window]) for window in steps])
            for camera in self.cameras
        }
        proprio = np.stack([[seen.proprio for seen in window] for window in steps])
        goal = np.stack([window[-1].goal for window in steps])
        return Inputs(tokens, self._tensor(proprio), self._tensor(goal))

    def encode(self, observations: Sequence[Observation]) -> list[Seen]:
        """Each observation as the policy reads it; the frames of all of them in one batch."""
        tokens = self._tokens(observations)
        return [
            Seen({camera: part[i] for camera, part in tokens.items()}, self.proprio(seen.proprio), seen.goal)
            for i, seen in enumerate(observations)
        ]

    def _tokens(self, observations: Sequence[Observation]) -> dict[str, Float[Tensor, "b n c"]]:
        """Frames of one size go through the encoder together; a camera of another size takes a batch of its own."""
        frames = {c: np.stack([o.images[c] for o in observations]) for c in self.cameras}
        tokens: dict[str, Tensor] = {}
        for shape in dict.fromkeys(clip.shape for clip in frames.values()):
            cameras = [camera for camera in self.cameras if frames[camera].shape == shape]
            images = torch.from_numpy(np.concatenate([frames[camera] for camera in cameras])).permute(0, 3, 1, 2)
            rows = self.rows * len(cameras)
            parts = self.encoder.encode_rows(images, rows).tokens.to(self.device).chunk(len(cameras))
            tokens |= dict(zip(cameras, parts, strict=True))
        return tokens

    def _noise(self, seed: int, decision: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 100_003 + decision)
        action = len(self.unnormalise.offset)
        return torch.randn(self.policy.chunk, action, generator=generator)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)
