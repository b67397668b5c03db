"""Observation encoders: frozen tokens, proprioception and goal to the context that a head reads.

A context is a sequence of vectors, `(b, s, e)` with `(s, e) = observation.shape`: one vector per time step from
`PooledObservation`, for heads that take a vector or a history; every token before them from `TokenObservation`, for
heads that attend. The last is always what is known of the newest time step.

Dims: b batch, o observation horizon, n tokens, c channels, p proprioception, g goal, s context steps, e their width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2robot.errors import S2RobotError
from s2robot.policies.batch import Inputs, Shapes
from s2robot.policies.pools import COORDINATE_SCALE, grid_coordinates
from s2robot.targets import instantiate

# Stream, its standardised tokens, 1 or 0 where training leaves its camera out.
Read = tuple[str, Float[Tensor, "b o n c"], Float[Tensor, " b"]]


class ObservationEncoder(nn.Module):
    """What both kinds share: cameras standardised and cut into scales, and what training leaves out.

    Args:
        shapes: of dataset and encoder.
        horizon: time steps of observation.
        per_scale: whether the scales of an S2 encoder are read apart; all channels of a token together otherwise.
        token_dropout: share of a frame's token channels that training leaves out.
        camera_dropout: how often training leaves out a camera; never all of them.
        proprio_noise: standard deviation of the noise on normalised proprioception in training; policies overtrust it
            otherwise.
    """

    def __init__(
        self,
        shapes: Shapes,
        horizon: int,
        *,
        per_scale: bool,
        token_dropout: float,
        camera_dropout: float,
        proprio_noise: float,
    ) -> None:
        super().__init__()
        if not (0 <= token_dropout < 1 and 0 <= camera_dropout < 1 and proprio_noise >= 0):
            raise S2RobotError(
                f"token_dropout={token_dropout} and camera_dropout={camera_dropout} are shares from 0 to below 1, "
                f"proprio_noise={proprio_noise} is not negative"
            )
        self.shapes, self.horizon = shapes, horizon
        self.scales = shapes.scales if per_scale else 1
        self.channels = shapes.channels // self.scales
        self.camera_dropout, self.proprio_noise = camera_dropout, proprio_noise
        self.standardise = nn.ModuleDict({c: Standardise(shapes.channels, token_dropout) for c in shapes.cameras})

    def set_statistics(self, camera: str, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> None:
        """Per-channel statistics of the training tokens of one camera."""
        layer = self.standardise[camera]
        assert isinstance(layer, Standardise)
        layer.mean.copy_(mean)
        layer.std.copy_(std)

    def streams(self) -> list[str]:
        """Names of what `read` yields: every camera at every scale that is read apart."""
        return [f"{camera}_{scale}" for camera in self.shapes.cameras for scale in range(self.scales)]

    def read(self, inputs: Inputs) -> Iterator[Read]:
        """Every stream in turn."""
        kept = self._kept(len(inputs.proprio), inputs.proprio.device)
        for index, camera in enumerate(self.shapes.cameras):
            tokens = self.standardise[camera](inputs.tokens[camera])
            for scale, part in enumerate(tokens.chunk(self.scales, dim=-1)):
                yield f"{camera}_{scale}", part, kept[:, index]

    def proprio(self, inputs: Inputs) -> Float[Tensor, "b o p"]:
        """Normalised proprioception, noisy in training."""
        if self.training and self.proprio_noise:
            return inputs.proprio + self.proprio_noise * torch.randn_like(inputs.proprio)
        return inputs.proprio

    def _kept(self, rows: int, device: torch.device) -> Float[Tensor, "b cameras"]:
        cameras = len(self.shapes.cameras)
        kept = torch.ones(rows, cameras, device=device)
        if not self.training or not self.camera_dropout or cameras < 2:
            return kept
        kept = (torch.rand_like(kept) >= self.camera_dropout).float()
        one = torch.randint(cameras, (rows,), device=device)
        return torch.where(kept.sum(1, keepdim=True) > 0, kept, nn.functional.one_hot(one, cameras).float())


class PooledObservation(ObservationEncoder):
    """One vector per time step: what a pool makes of every stream, proprioception and the goal.

    `fusion="concat"` puts the streams' vectors side by side; "attention" lets them attend to one another first (one
    pre-norm transformer layer over cameras and scales). `pool` is the configuration of one of `pools`.
    """

    def __init__(
        self, shapes: Shapes, horizon: int, *, pool: Mapping[str, Any], fusion: str, heads: int = 4, **common: Any
    ) -> None:
        super().__init__(shapes, horizon, **common)
        if fusion not in ("concat", "attention"):
            raise S2RobotError(f"fusion={fusion!r}; allowed: concat, attention")
        streams = self.streams()
        pools = {stream: instantiate(pool, shapes.grid, self.channels, shapes.goal) for stream in streams}
        self.pools = nn.ModuleDict(pools)
        views = sum(int(made.dim) for made in pools.values())
        self.fusion = None
        if fusion == "attention" and len(streams) > 1:
            width = views // len(streams)
            self.fusion = nn.TransformerEncoderLayer(
                width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.stream_embedding = nn.Parameter(torch.randn(len(streams), width) * 0.02)
        self.shape = (horizon, views + shapes.proprio + shapes.goal)

    def forward(self, inputs: Inputs) -> Float[Tensor, "b s e"]:
        """A vector per time step, oldest first."""
        return self.pooled(inputs, self.read(inputs))

    def pooled(self, inputs: Inputs, read: Iterable[Read]) -> Float[Tensor, "b o e"]:
        """A vector per time step of what was read."""
        views = [self.pools[stream](tokens, inputs.goal) * kept[:, None, None] for stream, tokens, kept in read]
        if self.fusion is not None:
            stacked = torch.stack(views, dim=2) + self.stream_embedding  # (b, o, streams, e)
            views = [self.fusion(stacked.flatten(0, 1)).view_as(stacked).flatten(2)]
        goal = inputs.goal.unsqueeze(1).expand(-1, self.horizon, -1)
        return torch.cat([*views, self.proprio(inputs), goal], dim=-1)


class TokenObservation(PooledObservation):
    """Every token as a step of the context, with its place, time step, camera and scale, and after them what
    `PooledObservation` makes of every time step. Heads start from the last, the newest, and attend to all. Without what
    is pooled, attention to tokens alone stayed for a whole training at what a policy without a camera achieves
    (docs/log.md, 2026-11-30).
    """

    grid: Tensor

    def __init__(self, shapes: Shapes, horizon: int, *, width: int, **pooled: Any) -> None:
        super().__init__(shapes, horizon, **pooled)
        rows, columns = shapes.grid
        self.register_buffer("grid", grid_coordinates(rows, columns))
        streams = self.streams()
        self.project = nn.ModuleDict({stream: nn.Linear(self.channels, width) for stream in streams})
        if streams:  # DDP refuses parameters that nothing uses
            self.place = nn.Linear(2, width)
            self.token_stream = nn.Parameter(torch.randn(len(streams), width) * 0.02)
        self.step_embedding = nn.Parameter(torch.randn(horizon, width) * 0.02)
        self.project_pooled = nn.Linear(self.shape[1], width)
        self.norm = nn.LayerNorm(width)
        self.shape = (horizon * (len(streams) * rows * columns + 1), width)

    def forward(self, inputs: Inputs) -> Float[Tensor, "b s e"]:
        """All tokens of all streams and time steps, then a vector per time step, oldest first."""
        read, parts = list(self.read(inputs)), []
        for index, (stream, tokens, kept) in enumerate(read):
            here = self.place(COORDINATE_SCALE * self.grid) + self.token_stream[index]
            here = here + self.step_embedding[:, None]  # one small sum
            x = self.project[stream](tokens) * kept[:, None, None, None] + here
            parts.append(x.flatten(1, 2))
        parts.append(self.project_pooled(self.pooled(inputs, read)) + self.step_embedding)
        return self.norm(torch.cat(parts, dim=1))


class Standardise(nn.Module):
    """(tokens - mean) / std per channel; training drops whole channels, the same in all tokens of a frame."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Float[Tensor, "b o n c"]) -> Float[Tensor, "b o n c"]:
        """In the precision of the statistics."""
        scale = self.dropout(1 / self.std.expand(*tokens.shape[:2], 1, -1))  # what is left out sits at its mean
        return torch.addcmul(-self.mean * scale, tokens.to(self.mean.dtype), scale)  # one pass over the tokens
