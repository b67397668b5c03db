"""A checkpoint in action: frozen encoder, policy and normalisers behind `infer(observation)` and `reset()`.

Dims: b decisions, h w frame (px), k chunk, a action, p proprioception, g goal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from s2robot.data.transforms import Normalise
from s2robot.encoders.interface import Encoder
from s2robot.policies.batch import Inputs
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
        self._history: deque[Observation] = deque(maxlen=policy.observation_horizon)
        self._decisions = 0

    @property
    def device(self) -> torch.device:
        """Where the policy computes."""
        return next(self.policy.parameters()).device

    def reset(self) -> None:
        """Forget the episode."""
        self._history.clear()
        self._decisions = 0

    def infer(self, observation: Observation) -> Float32[np.ndarray, "k a"]:
        """The chunk to execute from here, in the action spec's units, cut to the executed horizon."""
        self._history.append(observation)
        window = [self._history[0]] * (self.policy.observation_horizon - len(self._history)) + list(self._history)
        chunk = self.infer_batch([window], [(0, self._decisions)])[0]
        self._decisions += 1
        return chunk

    @torch.no_grad()
    def infer_batch(
        self, windows: Sequence[Sequence[Observation]], keys: Sequence[tuple[int, int]]
    ) -> Float32[np.ndarray, "b k a"]:
        """Chunks for several episodes at once. `keys` (episode seed, decision) seed each row's noise, so that a row's
        chunk is the same whatever else is in the batch.
        """
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

    def inputs(self, windows: Sequence[Sequence[Observation]]) -> Inputs:
        """Encode the frames, all cameras and time steps in one batch, and normalise the rest."""
        proprio = np.stack([[observation.proprio for observation in window] for window in windows])
        goal = np.stack([window[-1].goal for window in windows])
        return Inputs(self._tokens(windows), self._tensor(self.proprio(proprio)), self._tensor(goal))

    def _tokens(self, windows: Sequence[Sequence[Observation]]) -> dict[str, Float[Tensor, "b o n c"]]:
        """Frames of one size go through the encoder together; a camera of another size takes a batch of its own."""
        frames = {c: np.stack([o.images[c] for window in windows for o in window]) for c in self.cameras}
        tokens: dict[str, Tensor] = {}
        for shape in dict.fromkeys(clip.shape for clip in frames.values()):
            cameras = [camera for camera in self.cameras if frames[camera].shape == shape]
            images = torch.from_numpy(np.concatenate([frames[camera] for camera in cameras])).permute(0, 3, 1, 2)
            rows = self.rows * len(windows[0]) * len(cameras)
            parts = self.encoder.encode_rows(images, rows).tokens.chunk(len(cameras))
            for camera, part in zip(cameras, parts, strict=True):
                tokens[camera] = part.unflatten(0, (len(windows), -1)).to(self.device)
        return tokens

    def _noise(self, seed: int, decision: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 100_003 + decision)
        action = len(self.unnormalise.offset)
        return torch.randn(self.policy.chunk, action, generator=generator)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)
