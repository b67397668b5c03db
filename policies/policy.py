"""A chunk policy: what it sees (an observation encoder) and how it acts on it (a head).

Dims: b batch, o observation horizon, k chunk, a action, s context steps, e their width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from s2robot.errors import S2RobotError
from s2robot.policies.batch import Batch, Inputs, Shapes
from s2robot.policies.memory import EpisodeMemory
from s2robot.targets import instantiate

ABOUT = ("name", "actions", "recipe")  # keys of a policy's configuration that are not arguments of its module
REACH = {"min_max": 1.0, "z_score": 6.0}  # what single actions of a demonstration come to, once normalised


def build_policy(config: Mapping[str, Any], shapes: Shapes) -> ChunkPolicy:
    """The untrained policy of a configuration. Raises S2RobotError for keys and values that do not fit."""
    clip, normalise = config["head"].get("clip"), config.get("actions", {}).get("normalise", "z_score")
    if clip is not None and clip < REACH.get(normalise, 0.0):
        raise S2RobotError(
            f"policy.head.clip={clip} would cut off actions of policy.actions.normalise={normalise}, which come to "
            f"{REACH[normalise]:g}; give at least that"
        )
    try:
        policy: ChunkPolicy = instantiate({key: value for key, value in config.items() if key not in ABOUT}, shapes)
    except S2RobotError:
        raise
    except (TypeError, RuntimeError, ValueError, AssertionError, KeyError) as error:  # torch checks by any of them
        raise S2RobotError(f"policy {config.get('name')} cannot be built: {str(error).splitlines()[0]}") from error
    return policy


class ChunkPolicy(nn.Module):
    """Trains with `loss(batch)`, acts with `sample(inputs, noise)`, both on normalised values.

    Args:
        shapes: of dataset and encoder.
        observation: configuration of the observation encoder, built with (shapes, observation_horizon).
        head: configuration of the head, built with the context's shape and the chunk's (`heads.Head`).
        observation_horizon: time steps of observation that a decision needs.
        chunk: actions that a decision predicts.
        execute: how many of them are carried out before the next decision; it belongs to the checkpoint.
        ensemble: rate of temporal ensembling over overlapping chunks (`memory.EpisodeMemory`); None for none.
        aux_weight: adds a head that regresses the named object's x and y (m, world) in training: privileged labels,
            so a report says when it is on.
    """

    def __init__(
        self,
        shapes: Shapes,
        *,
        observation: Mapping[str, Any],
        head: Mapping[str, Any],
        observation_horizon: int,
        chunk: int,
        execute: int,
        ensemble: float | None,
        aux_weight: float,
    ) -> None:
        super().__init__()
        if not 1 <= execute <= chunk:
            raise S2RobotError(f"execute={execute} of a chunk of {chunk} actions; give 1 to {chunk}")
        EpisodeMemory(observation_horizon, chunk, execute, ensemble)  # refuses now what would stop an agent later
        self.observation = instantiate(observation, shapes, observation_horizon)
        steps, width = self.observation.shape
        self.head = instantiate(head, (steps, width), (chunk, shapes.action))
        self.chunk, self.execute, self.ensemble, self.aux_weight = chunk, execute, ensemble, aux_weight
        self.auxiliary = nn.Linear(steps * width, 2) if aux_weight else None

    @property
    def observation_horizon(self) -> int:
        """Time steps of observation that a decision needs."""
        return self.observation.horizon

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Scalar training loss."""
        context = self.observation(batch.inputs)
        loss = batch.weight * self.head.loss(context, batch.action, batch.mask)
        if self.auxiliary is not None and batch.object_xy is not None:
            guess = self.auxiliary(context.flatten(1))
            loss = loss + self.aux_weight * F.smooth_l1_loss(10.0 * guess, 10.0 * batch.object_xy)
        return loss

    @torch.no_grad()
    def sample(self, inputs: Inputs, noise: Float[Tensor, "b k a"]) -> Float[Tensor, "b k a"]:
        """Action chunks; a pure function of inputs and noise."""
        return self.head.sample(self.observation(inputs), noise)
