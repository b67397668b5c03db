"""The observation encoder: frozen tokens, proprioception and goal to one vector.

Each camera's token grid is read through a few goal-conditioned keypoints. A global mean would lose where things are,
and a flattened grid has to learn every place anew: trained on 400 layouts of `pick_cube` it finds the named cube on
others to 79 mm, the keypoints to 26 mm, and to 12 mm with token dropout (docs/log.md).

Dims: b batch, o observation horizon, n tokens, c channels, p proprioception, g goal, h hidden, k keypoints, d vector.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from s2robot.policies.batch import Inputs, Shapes

COORDINATE_SCALE = 3.0  # brings expected coordinates to the spread of the features beside them


class ObservationEncoder(nn.Module):
    """`forward(inputs) -> (b, d)` with `d = self.dim`. Token statistics are buffers set once from the training set.

    Args:
        shapes: of dataset and encoder.
        horizon: time steps of observation.
        hidden: width of the per-token network.
        keypoints: places that a camera's grid is read at.
        value_dim: features read at each of them.
        view_dim: length of a camera's vector.
        token_dropout: share of a frame's token channels that training leaves out.
        proprio_noise: standard deviation of the noise on normalised proprioception in training; policies overtrust it
            otherwise.
    """

    def __init__(
        self,
        shapes: Shapes,
        horizon: int = 1,
        hidden: int = 64,
        keypoints: int = 4,
        value_dim: int = 16,
        view_dim: int = 256,
        token_dropout: float = 0.2,
        proprio_noise: float = 0.02,
    ) -> None:
        super().__init__()
        self.proprio_noise = proprio_noise
        self.horizon = horizon
        self.cameras = nn.ModuleDict(
            {c: KeypointPool(shapes, hidden, keypoints, value_dim, view_dim, token_dropout) for c in shapes.cameras}
        )
        self.dim = horizon * (len(shapes.cameras) * view_dim + shapes.proprio) + shapes.goal

    def forward(self, inputs: Inputs) -> Float[Tensor, "b d"]:
        """One vector per sample: every camera's, proprioception and the goal."""
        proprio = inputs.proprio
        if self.training and self.proprio_noise:
            proprio = proprio + self.proprio_noise * torch.randn_like(proprio)
        views = [pool(inputs.tokens[camera], inputs.goal) for camera, pool in self.cameras.items()]
        return torch.cat([*(v.flatten(1) for v in views), proprio.flatten(1), inputs.goal], dim=1)

    def set_statistics(self, camera: str, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> None:
        """Per-channel statistics of the training tokens of one camera."""
        pool = self.cameras[camera]
        assert isinstance(pool, KeypointPool)
        pool.mean.copy_(mean)
        pool.std.copy_(std)


class KeypointPool(nn.Module):
    """One camera's token grid to a vector by spatial softmax (Finn et al., arXiv 1509.06113, section V-B).

    A small network, the same for every token, is gated by the goal (FiLM, arXiv 1709.07871), so that "the red one"
    can light up where red is. Each keypoint scores all tokens; their softmax gives its expected place in the grid
    and the features found there, which say where within a token the thing lies.
    """

    mean: Tensor
    std: Tensor
    grid: Tensor

    def __init__(
        self, shapes: Shapes, hidden: int, keypoints: int, value_dim: int, view_dim: int, dropout: float
    ) -> None:
        super().__init__()
        rows, columns = shapes.grid
        self.register_buffer("mean", torch.zeros(shapes.channels))
        self.register_buffer("std", torch.ones(shapes.channels))
        self.register_buffer("grid", _grid_coordinates(rows, columns))
        self.keypoints = keypoints
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(shapes.channels, hidden)
        self.gate = nn.Linear(shapes.goal, 2 * hidden) if shapes.goal else None
        self.hidden = nn.Linear(hidden, hidden)
        self.score = nn.Linear(hidden, keypoints)
        self.prior = nn.Parameter(torch.zeros(rows * columns, keypoints))  # where a keypoint looks anyway
        self.value = nn.Linear(hidden, keypoints * value_dim)
        self.out = nn.Sequential(nn.Linear(keypoints * (value_dim + 2), view_dim), nn.LayerNorm(view_dim), nn.GELU())
        if self.gate is not None:  # wide enough that different goals see different projections from the start
            nn.init.normal_(self.gate.weight, std=0.5)
            nn.init.zeros_(self.gate.bias)

    def forward(self, tokens: Float[Tensor, "b o n c"], goal: Float[Tensor, "b g"]) -> Float[Tensor, "b o v"]:
        """The camera's vector per time step."""
        x = self._standardise_and_project(tokens.to(self.mean.dtype))
        if self.gate is not None:
            scale, shift = self.gate(goal)[:, None, None].chunk(2, dim=-1)
            x = x * (1 + scale) + shift
        x = F.gelu(self.hidden(F.gelu(x)))
        weight = (self.score(x) + self.prior).softmax(dim=2)  # (b, o, n, k)
        value = self.value(x).unflatten(-1, (self.keypoints, -1))
        found = torch.einsum("bonk,bonkv->bokv", weight, value)
        place = COORDINATE_SCALE * torch.einsum("bonk,ni->boki", weight, self.grid)
        return self.out(torch.cat([found, place], dim=-1).flatten(2))

    def _standardise_and_project(self, tokens: Float[Tensor, "b o n c"]) -> Float[Tensor, "b o n h"]:
        """`project((tokens - mean) / std)` without a standardised copy. A dropped channel is dropped in all tokens."""
        weight = self.project.weight / self.std
        bias = self.project.bias - weight @ self.mean
        if not (self.training and self.dropout.p):
            return F.linear(tokens, weight, bias)
        keep = self.dropout(torch.ones_like(tokens[:, :, :1]))  # 0 or 1 / (1 - p); what is left out sits at its mean
        return F.linear((tokens - self.mean) * keep, weight, self.project.bias)


def _grid_coordinates(rows: int, columns: int) -> Float[Tensor, "n 2"]:
    """Column and row of every token, each from -1 to 1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)
