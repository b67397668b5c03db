"""A checkpoint in action: frozen encoder, policy and normalisers behind `infer(observation)` and `reset()`.

A frame goes through the encoder once: an episode's memory keeps the tokens of the observations that the policy still
looks back at.

Dims: b decisions, n tokens, c channels, k chunk, e executed actions, a action, p proprioception, g goal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from s2robot.data.transforms import Normalise
from s2robot.encoders.interface import Encoder
from s2robot.policies.batch import Inputs
from s2robot.policies.memory import EpisodeMemory, Seen
from s2robot.policies.policy import ChunkPolicy
from s2robot.types import Observation


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
        representation: of the actions that come out, "delta" or "absolute" (`data.actions`).
    """

    def __init__(
        self,
        encoder: Encoder,
        policy: ChunkPolicy,
        proprio: Normalise,
        action: Normalise,
        cameras: Sequence[str],
        rows: int = 1,
        representation: str = "delta",
    ) -> None:
        self.encoder, self.policy = encoder, policy.eval()
        self.proprio, self.unnormalise = proprio, action.inverse()
        self.cameras, self.rows, self.representation = tuple(cameras), rows, representation
        self.reset()

    @property
    def device(self) -> torch.device:
        """Where the policy computes."""
        return next(self.policy.parameters()).device

    def reset(self) -> None:
        """Forget the episode."""
        self._memory = self.new_memory()
        self._decisions = 0

    def new_memory(self) -> EpisodeMemory:
        """The empty memory of an episode that begins."""
        policy = self.policy
        return EpisodeMemory(policy.observation_horizon, policy.chunk, policy.execute, policy.ensemble)

    def infer(self, observation: Observation) -> Float32[np.ndarray, "e a"]:
        """The actions to execute from here, in their spec's units, as many as belong to a decision."""
        chunk = self.infer_batch([observation], [self._memory], [(0, self._decisions)])[0]
        self._decisions += 1
        return chunk

    @torch.no_grad()
    def infer_batch(
        self, observations: Sequence[Observation], memories: Sequence[EpisodeMemory], keys: Sequence[tuple[int, int]]
    ) -> Float32[np.ndarray, "b e a"]:
        """The next actions of several episodes at once: their newest observations are encoded and remembered.

        `keys` (episode seed, decision) seed each row's noise, so that a row's chunk is the same whatever else is in the
        batch.
        """
        for memory, seen in zip(memories, self.encode(observations), strict=True):
            memory.push(seen)
        actions = []
        for start in range(0, len(memories), self.rows):
            group, names = list(memories[start : start + self.rows]), list(keys[start : start + self.rows])
            empty = self.rows - len(group)
            noise = torch.stack([self._noise(*name) for name in names + [names[0]] * empty]).to(self.device)
            chunks = self.policy.sample(self.inputs(group + [group[0]] * empty), noise).cpu().numpy()
            actions += [memory.accept(chunk) for memory, chunk in zip(group, chunks, strict=False)]
        return self.unnormalise(np.stack(actions))

    def inputs(self, memories: Sequence[EpisodeMemory]) -> Inputs:
        """What the policy reads of memories that have seen something."""
        steps = [memory.steps() for memory in memories]
        tokens = {
            camera: torch.stack([torch.stack([seen.tokens[camera] for seen in episode]) for episode in steps])
            for camera in self.cameras
        }
        proprio = np.stack([[seen.proprio for seen in episode] for episode in steps])
        goal = np.stack([episode[-1].goal for episode in steps])
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
