"""Pools: one camera's token grid, at one scale or all of them, to a vector per time step.

Dims: b batch, o observation horizon, n tokens, c channels, g goal, h hidden, k keypoints, q queries, v vector.

All take standardised tokens and the goal, and have `dim`, the length of their vector. A global mean loses where things
are and a flattened grid has to learn every place anew: `s2robot compare experiment=pools` compares them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from s2robot.policies.attention import ContextAttention

COORDINATE_SCALE = 3.0  # brings expected coordinates to the spread of the features beside them


class KeypointPool(nn.Module):
    """Spatial softmax (Finn et al., arXiv 1509.06113, section V-B) that the goal conditions.

    A small network, the same for every token, is gated by the goal (FiLM, arXiv 1709.07871), and what it finds is
    scored with weights that the goal chooses, so that "the red one" can light up where red is. Without those weights
    and the norms training sits for hundreds of steps, some runs for good, on what a policy without a camera achieves;
    with four keypoints a few runs still do, with sixteen none has (docs/log.md). Each keypoint scores all tokens; their
    softmax gives its expected place in the grid and the features found there, which say where within a token the thing
    lies.

    Args:
        grid: rows and columns of tokens.
        channels: per token.
        goal: length of the goal vector; 0 for none.
        hidden: width of the per-token network.
        keypoints: places that the grid is read at.
        value_dim: features read at each of them.
        dim: length of the vector.
    """

    grid: Tensor

    def __init__(
        self, grid: tuple[int, int], channels: int, goal: int, *, hidden: int, keypoints: int, value_dim: int, dim: int
    ) -> None:
        super().__init__()
        self.register_buffer("grid", grid_coordinates(*grid))
        self.keypoints, self.dim = keypoints, dim
        self.project, self.project_norm = nn.Linear(channels, hidden), nn.LayerNorm(hidden)
        self.hidden, self.hidden_norm = nn.Linear(hidden, hidden), nn.LayerNorm(hidden)
        self.score = nn.Linear(hidden, keypoints)
        self.gate = _goal_linear(goal, 2 * hidden, 1.0) if goal else None
        self.goal_score = _goal_linear(goal, hidden * keypoints, 2.0 * hidden**-0.5) if goal else None
        self.prior = nn.Parameter(torch.zeros(len(self.grid), keypoints))  # where a keypoint looks anyway
        self.value = nn.Linear(hidden, keypoints * value_dim)
        self.out = _output(keypoints * (value_dim + 2), dim)

    def forward(self, tokens: Float[Tensor, "b o n c"], goal: Float[Tensor, "b g"]) -> Float[Tensor, "b o v"]:
        """The vector per time step."""
        x = self.project(tokens)
        if self.gate is not None:
            scale, shift = self.gate(goal)[:, None, None].chunk(2, dim=-1)
            x = x * (1 + scale) + shift
        x = F.gelu(self.hidden_norm(self.hidden(F.gelu(self.project_norm(x)))))
        score = self.score(x) + self.prior
        if self.goal_score is not None:
            score = score + x @ self.goal_score(goal).unflatten(-1, (1, -1, self.keypoints))
        weight = score.softmax(dim=2)  # (b, o, n, k)
        seen = torch.einsum("bonk,bonh->bokh", weight, x)  # before `value`, which is linear: far fewer vectors to map
        found = torch.einsum("bokh,kvh->bokv", seen, self.value.weight.unflatten(0, (self.keypoints, -1)))
        found = found + self.value.bias.view(self.keypoints, -1)
        place = COORDINATE_SCALE * torch.einsum("bonk,ni->boki", weight, self.grid)
        return self.out(torch.cat([found, place], dim=-1).flatten(2))


class AttentionPool(nn.Module):
    """Learned queries, shifted by the goal, attend to the tokens and their places (arXiv 1706.03762; as the attentive
    pooling of arXiv 2205.01917, section 3.2). `width` is that of keys and values.
    """

    grid: Tensor

    def __init__(
        self, grid: tuple[int, int], channels: int, goal: int, *, width: int, heads: int, queries: int, dim: int
    ) -> None:
        super().__init__()
        self.register_buffer("grid", grid_coordinates(*grid))
        self.dim = dim
        self.project = nn.Linear(channels, width)
        self.place = nn.Linear(2, width)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(queries, width) * 0.5)
        self.goal = _goal_linear(goal, queries * width, 0.5) if goal else None
        self.attention = ContextAttention(width, heads, batch_first=True)
        self.out = _output(queries * width, dim)

    def forward(self, tokens: Float[Tensor, "b o n c"], goal: Float[Tensor, "b g"]) -> Float[Tensor, "b o v"]:
        """The vector per time step."""
        rows, steps = tokens.shape[:2]
        keys = self.norm(self.project(tokens) + self.place(COORDINATE_SCALE * self.grid)).flatten(0, 1)
        query = self.query.expand(rows, -1, -1)
        if self.goal is not None:
            query = query + self.goal(goal).view_as(query)
        query = query.repeat_interleave(steps, dim=0)
        found = self.attention(query, keys, keys)[0]
        return self.out(found.flatten(1)).unflatten(0, (rows, steps))


class GridPool(nn.Module):
    """Every token to `rank` numbers by one linear map, the grid flattened: keeps every place, shares nothing."""

    def __init__(self, grid: tuple[int, int], channels: int, goal: int, *, rank: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.project = nn.Linear(channels, rank)
        self.out = _output(grid[0] * grid[1] * rank, dim)

    def forward(self, tokens: Float[Tensor, "b o n c"], goal: Float[Tensor, "b g"]) -> Float[Tensor, "b o v"]:
        """The vector per time step; the goal goes unused."""
        return self.out(F.gelu(self.project(tokens)).flatten(2))


class MeanPool(nn.Module):
    """The mean token and one linear map: what most users of frozen features do (arXiv 2306.10007)."""

    def __init__(self, grid: tuple[int, int], channels: int, goal: int, *, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.out = _output(channels, dim)

    def forward(self, tokens: Float[Tensor, "b o n c"], goal: Float[Tensor, "b g"]) -> Float[Tensor, "b o v"]:
        """The vector per time step; the goal goes unused."""
        return self.out(tokens.mean(2))


def grid_coordinates(rows: int, columns: int) -> Float[Tensor, "n 2"]:
    """Column and row of every token, each from -1 to 1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def _output(inputs: int, dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, dim), nn.LayerNorm(dim), nn.GELU())


def _goal_linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    """Wide enough that different goals see different projections from the start."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
