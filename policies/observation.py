"""The observation encoder: frozen tokens, proprioception and goal to one vector.

Every token is projected to a few channels, gated by the goal (FiLM, arXiv 1709.07871) so that "the red one" can light
up where red is, and the whole grid is flattened: a global mean would lose where things are (87-105 mm of error in a
probe, against 9-15 mm with the grid).

Dims: b batch, o observation horizon, n tokens, c channels, p proprioception, g goal, d feature vector.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2robot.policies.batch import Inputs, Shapes


class ObservationEncoder(nn.Module):
    """`forward(inputs) -> (b, d)` with `d = self.dim`. Token statistics are buffers set once from the training set."""

    def __init__(
        self,
        shapes: Shapes,
        observation_horizon: int,
        token_hidden: int = 32,
        token_dim: int = 8,
        view_dim: int = 256,
        proprio_noise: float = 0.02,
        token_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.proprio_noise = proprio_noise
        self.horizon = observation_horizon
        self.cameras = nn.ModuleDict(
            {c: CameraPool(shapes, token_hidden, token_dim, view_dim, token_dropout) for c in shapes.cameras}
        )
        vectors = len(shapes.cameras) * view_dim + shapes.proprio
        self.dim = observation_horizon * vectors + shapes.goal

    def forward(self, inputs: Inputs) -> Float[Tensor, "b d"]:
        """Proprioception gets Gaussian noise in training: policies overtrust it otherwise."""
        proprio = inputs.proprio
        if self.training and self.proprio_noise:
            proprio = proprio + self.proprio_noise * torch.randn_like(proprio)
        views = [pool(inputs.tokens[camera], inputs.goal) for camera, pool in self.cameras.items()]
        return torch.cat([*(v.flatten(1) for v in views), proprio.flatten(1), inputs.goal], dim=1)

    def set_statistics(self, camera: str, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> None:
        """Per-channel statistics of the training tokens of one camera."""
        pool = self.cameras[camera]
        assert isinstance(pool, CameraPool)
        pool.mean.copy_(mean)
        pool.std.copy_(std)


class CameraPool(nn.Module):
    """One camera's token grid to a vector: standardise, project, gate by the goal, flatten, project."""

    mean: Tensor
    std: Tensor

    def __init__(self, shapes: Shapes, hidden: int, token_dim: int, view_dim: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shapes.channels))
        self.register_buffer("std", torch.ones(shapes.channels))
        self.project = nn.Linear(shapes.channels, hidden)
        self.gate = nn.Linear(shapes.goal, 2 * hidden) if shapes.goal else None
        self.reduce = nn.Linear(hidden, token_dim)
        rows, columns = shapes.grid
        self.dropout = nn.Dropout(dropout)
        self.flatten = nn.Sequential(nn.Linear(rows * columns * token_dim, view_dim), nn.LayerNorm(view_dim), nn.GELU())
        if self.gate is not None:  # wide enough that different goals see different projections from the start
            nn.init.normal_(self.gate.weight, std=0.5)
            nn.init.zeros_(self.gate.bias)

    def forward(self, tokens: Float[Tensor, "b o n c"], goal: Float[Tensor, "b g"]) -> Float[Tensor, "b o v"]:
        """The camera's vector per time step."""
        x = self.project((tokens.to(self.mean.dtype) - self.mean) / self.std)
        if self.gate is not None:
            scale, shift = self.gate(goal)[:, None, None].chunk(2, dim=-1)
            x = x * (1 + scale) + shift
        x = self.reduce(nn.functional.gelu(x))
        return self.flatten(self.dropout(nn.functional.gelu(x).flatten(2)))
