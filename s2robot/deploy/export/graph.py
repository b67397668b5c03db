"""Encoder and policy as graphs of static shape, preprocessing and normalisers inside, written as ONNX.

Dims: h w frame (px), n tokens, c channels, q prefix tokens, o observation horizon, p proprioception, g goal, k chunk,
a action, s t rows and columns before, u v after.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from s2robot.data.transforms import Normalise
from s2robot.encoders.encoder import MultiscaleEncoder
from s2robot.encoders.multiscale import area_pool, merge, run_in_batches, separate_prefix, split
from s2robot.errors import S2RobotError
from s2robot.policies.batch import Inputs, Shapes
from s2robot.policies.policy import ChunkPolicy
from s2robot.types import CameraSpec


class Separable(nn.Module):
    """A linear map of rows and one of columns, given by what `function` does to unit images: exact, and two matrix
    products in any runtime. ONNX's own resize has other antialiasing kernels in other runtimes.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, function: Any, before: tuple[int, int], after: tuple[int, int]) -> None:
        super().__init__()
        self.same = before == after
        for name, old, new in zip(("rows", "columns"), before, after, strict=True):
            self.register_buffer(name, function(torch.eye(old)[None, None], (new, old))[0, 0])

    def forward(self, x: Float[Tensor, "b c s t"]) -> Float[Tensor, "b c u v"]:
        """The identity where nothing changes size."""
        return x if self.same else self.rows @ x @ self.columns.T


class EncoderGraph(nn.Module):
    """`MultiscaleEncoder` for frames of one size, as a camera delivers them."""

    def __init__(self, encoder: MultiscaleEncoder, camera: CameraSpec) -> None:
        super().__init__()
        self.encoder = encoder
        blank = torch.zeros(1, 3, camera.height, camera.width, dtype=torch.uint8)
        squares = encoder.normalised_squares(blank)
        here = (squares.shape[-2], squares.shape[-1])
        antialias = not encoder.reference
        self.resizes = nn.ModuleList(
            Separable(lambda x, after: _resized(x, after, here, antialias), here, (size, size))
            for size in encoder.sizes
        )
        maps = [(part.shape[-2], part.shape[-1]) for part in self._maps(squares)[0]]
        grid = maps[encoder.resize_output_to_idx]
        self.pools = nn.ModuleList(Separable(area_pool, sides, grid) for sides in maps)
        self.last = Separable(area_pool, grid, encoder.grid)

    def forward(self, image: UInt8[Tensor, "1 h w 3"]) -> tuple[Float[Tensor, "1 n c"], Float[Tensor, "1 q c"]]:
        """Tokens and prefix tokens of one RGB frame, upright."""
        maps, prefixes = self._maps(self.encoder.normalised_squares(image.permute(0, 3, 1, 2)))
        pooled = torch.cat([pool(part) for pool, part in zip(self.pools, maps, strict=True)], dim=1)
        return self.last(pooled).flatten(2).transpose(1, 2), torch.cat(prefixes, dim=-1)

    def _maps(self, squares: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        encoder = self.encoder
        tiles = [split(r(squares), k) for r, k in zip(self.resizes, encoder.splits, strict=True)]
        outputs = run_in_batches(encoder.backbone, tiles)
        parts = [separate_prefix(out, encoder.backbone.num_prefix_tokens) for out in outputs]
        maps = [merge(part.map, k) for part, k in zip(parts, encoder.splits, strict=True)]
        return maps, [part.prefix.unflatten(0, (-1, 1)).mean(0) for part in parts]


class PolicyGraph(nn.Module):
    """A policy from tokens, proprioception, goal and noise to a chunk, both ends in their specs' units."""

    proprio_offset: Tensor
    proprio_scale: Tensor
    action_offset: Tensor
    action_scale: Tensor

    def __init__(self, policy: ChunkPolicy, proprio: Normalise, action: Normalise, cameras: Sequence[str]) -> None:
        super().__init__()
        self.policy, self.cameras = policy.eval(), tuple(cameras)
        for name, transform in (("proprio", proprio), ("action", action)):
            self.register_buffer(f"{name}_offset", torch.tensor(transform.offset))
            self.register_buffer(f"{name}_scale", torch.tensor(transform.scale))

    def forward(self, tokens: list[Tensor], proprio: Tensor, goal: Tensor, noise: Tensor) -> Float[Tensor, "1 k a"]:
        """`tokens` (1, o, n, c) by camera, proprio (1, o, p), goal (1, g), noise (1, k, a)."""
        normalised = (proprio - self.proprio_offset) / self.proprio_scale
        inputs = Inputs(dict(zip(self.cameras, tokens, strict=True)), normalised, goal)
        return self.policy.sample(inputs, noise) * self.action_scale + self.action_offset


def write_encoder(encoder: MultiscaleEncoder, camera: CameraSpec, path: Path) -> None:
    """`image` uint8 (1, h, w, 3) to `tokens` (1, n, c) and `prefix` (1, q, c), where the encoder has prefix tokens."""
    image = torch.zeros(1, camera.height, camera.width, 3, dtype=torch.uint8)
    _write(EncoderGraph(encoder, camera).eval(), (image,), ["image"], ["tokens", "prefix"], path)


def write_policy(graph: PolicyGraph, shapes: Shapes, path: Path) -> None:
    """`tokens/<camera>`, `proprio`, `goal` and `noise`, those that the policy uses, to `actions` (1, k, a).

    Raises S2RobotError for a sampler that draws noise of its own or whose steps depend on its state.
    """
    sampler = getattr(graph.policy.head, "sampler", None)
    if sampler in ("ddpm", "dpm++"):
        raise S2RobotError(
            f"sampler {sampler} has no static graph (it draws noise at every step, or remembers between steps); train "
            "with policy.head.sampler=ddim, the same net"
        )
    o, n = graph.policy.observation_horizon, shapes.grid[0] * shapes.grid[1]
    tokens = [torch.zeros(1, o, n, shapes.channels) for _ in graph.cameras]
    goal, noise = torch.zeros(1, shapes.goal), torch.zeros(1, graph.policy.chunk, shapes.action)
    names = [*(f"tokens/{camera}" for camera in graph.cameras), "proprio", "goal", "noise"]
    _write(graph, (tokens, torch.zeros(1, o, shapes.proprio), goal, noise), names, ["actions"], path)


def _resized(x: Tensor, after: tuple[int, int], square: tuple[int, int], antialias: bool) -> Tensor:
    """`resize` along the rows alone; it shrinks or not as it would for the whole square."""
    if after[0] == square[0]:
        return x
    shrinks = after[0] < min(square)
    return F.interpolate(x, after, mode="bicubic", antialias=antialias and shrinks)


def _write(graph: nn.Module, inputs: tuple[Any, ...], names: list[str], outputs: list[str], path: Path) -> None:
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            graph, inputs, str(path), input_names=names, output_names=outputs, dynamo=True, external_data=False,
            verbose=False,
        )  # fmt: skip


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter prints its progress and warns about what it does to its own parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
