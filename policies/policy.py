"""A chunk policy: observation encoder and head, with the normalisers that travel with it.

Dims: b batch, o observation horizon, k chunk, a action, p proprioception, g goal, n tokens, c channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from s2robot.errors import S2RobotError
from s2robot.policies.batch import Batch, Inputs, Shapes
from s2robot.policies.heads import DiffusionHead, RegressionHead
from s2robot.policies.observation import ObservationEncoder
from s2robot.targets import instantiate

DEFAULT_OBSERVATION: Mapping[str, Any] = MappingProxyType(
    {"_target_": "s2robot.policies.observation.ObservationEncoder"}
)


class ChunkPolicy(nn.Module):
    """Trains with `loss(batch)`, acts with `sample(inputs, noise)`, both on normalised values.

    `execute` of the `chunk` predicted actions are carried out before the next decision; both belong to the
    checkpoint. `aux_weight` adds a head that regresses the named object's x and y (m, world) in training: privileged
    labels, so a report has to say when it is on.
    """

    def __init__(
        self,
        observation: ObservationEncoder,
        head: RegressionHead | DiffusionHead,
        chunk: int,
        execute: int,
        aux_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if not 1 <= execute <= chunk:
            raise S2RobotError(f"execute={execute} of a chunk of {chunk} actions; give 1 to {chunk}")
        self.observation, self.head = observation, head
        self.chunk, self.execute, self.aux_weight = chunk, execute, aux_weight
        self.auxiliary = nn.Linear(observation.dim, 2) if aux_weight else None

    @property
    def observation_horizon(self) -> int:
        """Time steps of observation that a decision needs."""
        return self.observation.horizon

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Scalar training loss."""
        vector = self.observation(batch.inputs)
        loss = self.head.loss(vector, batch.action, batch.mask)
        if self.auxiliary is not None and batch.object_xy is not None:
            loss = loss + self.aux_weight * F.smooth_l1_loss(10.0 * self.auxiliary(vector), 10.0 * batch.object_xy)
        return loss

    @torch.no_grad()
    def sample(self, inputs: Inputs, noise: Float[Tensor, "b k a"]) -> Float[Tensor, "b k a"]:
        """Action chunks; a pure function of inputs and noise."""
        return self.head.sample(self.observation(inputs), noise)


def behaviour_cloning(
    shapes: Shapes,
    observation_horizon: int = 1,
    chunk: int = 8,
    execute: int = 4,
    hidden: int = 512,
    dropout: float = 0.1,
    aux_weight: float = 0.0,
    observation: Mapping[str, Any] = DEFAULT_OBSERVATION,
) -> ChunkPolicy:
    """Observation vector to a chunk by an MLP with L1. `observation` names and configures the observation encoder."""
    encoder = instantiate(observation, shapes, observation_horizon)
    head = RegressionHead(encoder.dim, chunk, shapes.action, hidden, dropout)
    return ChunkPolicy(encoder, head, chunk, execute, aux_weight)


def diffusion(
    shapes: Shapes,
    observation_horizon: int = 1,
    chunk: int = 8,
    execute: int = 4,
    hidden: int = 512,
    train_steps: int = 100,
    denoising_steps: int = 10,
    aux_weight: float = 0.0,
    observation: Mapping[str, Any] = DEFAULT_OBSERVATION,
) -> ChunkPolicy:
    """The same observation encoder with a small diffusion head."""
    encoder = instantiate(observation, shapes, observation_horizon)
    head = DiffusionHead(encoder.dim, chunk, shapes.action, hidden, train_steps, denoising_steps)
    return ChunkPolicy(encoder, head, chunk, execute, aux_weight)
