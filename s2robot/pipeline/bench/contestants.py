"""What is timed: our encoder, the public reference package, the bare backbone, and a matrix product as the yardstick.

The package is a checkout of bfshi/scaling_on_scales. It and the bare backbone run the model as its library builds it.

Dims: b frames, s side of a frame (px).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from s2robot.encoders import MultiscaleEncoder, load_encoder
from s2robot.encoders.backbone import DTYPES
from s2robot.errors import S2RobotError

Kind = Literal["ours", "reference", "bare", "matmul"]
Call = Callable[[UInt8[Tensor, "b 3 s s"]], Any]
WARM_UP = 2
MATMUL_SIDE = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class Setting:
    """How a model computes: dtype, and mode: eager, compiled (torch.compile) or graph (a CUDA graph of the call)."""

    dtype: str
    mode: str


@dataclass(frozen=True)
class Contestant:
    """One thing to time."""

    kind: Kind
    setting: Setting


class Models:
    """The encoders behind the contestants of one device, each built once: ours, and the one that runs as published."""

    def __init__(self, encoder: Mapping[str, Any], device: torch.device, reference: str | None) -> None:
        self.device, self.reference = device, reference
        self._config = encoder
        self._encoders: dict[tuple[bool, Setting], MultiscaleEncoder] = {}

    def call(self, contestant: Contestant, frames: UInt8[Tensor, "b 3 s s"]) -> Call:
        """The timed call, warmed up on `frames`. Raises S2RobotError where the mode does not run on this machine."""
        setting = contestant.setting
        with torch.no_grad():
            call = self._plain_call(contestant)
            try:
                for _ in range(WARM_UP):
                    call(frames)
            except RuntimeError as error:
                if setting.mode != "compiled":
                    raise
                reason = str(error).strip().splitlines()[0]
                raise S2RobotError(
                    f"mode compiled does not run here ({reason}); leave it out: modes=[eager]"
                ) from error
            return captured(call, frames, self.device) if setting.mode == "graph" else call

    def _plain_call(self, contestant: Contestant) -> Call:
        setting = contestant.setting
        if contestant.kind == "matmul":
            return matmul_call(DTYPES[setting.dtype], self.device)
        encoder = self._encoder(contestant.kind == "ours", setting)
        if contestant.kind == "ours":
            return lambda frames: encoder(frames).tokens
        return bare_call(encoder) if contestant.kind == "bare" else self._reference_call(encoder)

    def _encoder(self, ours: bool, setting: Setting) -> MultiscaleEncoder:
        if (ours, setting) not in self._encoders:
            changes = {} if ours else {"reference": True}
            encoder = load_encoder(self._config, str(self.device), setting.dtype, **changes)
            assert isinstance(encoder, MultiscaleEncoder)
            if setting.mode == "compiled":
                # One graph per batch size: a dynamic one would serve whoever comes with another size.
                torch._dynamo.config.recompile_limit = 64
                encoder.backbone.model = torch.compile(encoder.backbone.model, dynamic=False)
            self._encoders[ours, setting] = encoder
        return self._encoders[ours, setting]

    def _reference_call(self, encoder: MultiscaleEncoder) -> Call:
        assert self.reference is not None
        forward, backbone = reference_forward(self.reference), encoder.backbone
        mean, std = (torch.tensor(v, device=encoder.device).view(3, 1, 1) for v in (backbone.mean, backbone.std))
        tile = torch.zeros(1, 3, encoder.tile, encoder.tile, device=encoder.device)
        options = {
            "img_sizes": list(encoder.sizes),
            "max_split_size": encoder.tile,
            "num_prefix_token": backbone.num_prefix_tokens,
            "output_shape": "bchw" if backbone(tile).ndim == 4 else "bnc",
            "resize_output_to_idx": encoder.resize_output_to_idx,
        }

        def call(frames: Tensor) -> Tensor:
            images = (frames.to(encoder.device).float() / 255 - mean) / std
            return forward(backbone.model, images.to(backbone.dtype), **options)

        return call


def reference_forward(checkout: str) -> Callable[..., Tensor]:
    """The package's one function. Raises S2RobotError where the checkout does not import."""
    sys.path.insert(0, checkout)
    try:
        forward: Callable[..., Tensor] = import_module("s2wrapper").forward
    except ModuleNotFoundError as error:
        raise S2RobotError(f"reference={checkout} does not import ({error}); `pip install {error.name}`") from error
    except (ImportError, AttributeError) as error:
        raise S2RobotError(
            f"reference={checkout} does not import ({error}); give a checkout of github.com/bfshi/scaling_on_scales"
        ) from error
    finally:
        sys.path.remove(checkout)
    return forward


def bare_call(encoder: MultiscaleEncoder) -> Call:
    """The backbone on as many tiles of each side as the encoder cuts, one batch per side."""
    per_side: dict[int, int] = {}
    for size, count in zip(encoder.sizes, encoder.splits, strict=True):
        per_side[size // count] = per_side.get(size // count, 0) + count * count
    tiles: dict[tuple[int, int], Tensor] = {}

    def call(frames: Tensor) -> None:
        for side, count in per_side.items():
            shape = len(frames) * count, side
            if shape not in tiles:
                images = torch.randn(len(frames) * count, 3, side, side)
                tiles[shape] = images.to(encoder.device, encoder.backbone.dtype)
            encoder.backbone.model(tiles[shape])

    return call


def matmul_call(dtype: torch.dtype, device: torch.device) -> Call:
    """One large product: what the machine can do in this dtype."""
    side = MATMUL_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return lambda _: a @ b


def captured(call: Call, frames: Tensor, device: torch.device) -> Call:
    """The call as a CUDA graph on a copy of its input (PyTorch's documentation, "CUDA graphs")."""
    static = frames.to(device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call(static)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(static)

    def replay(images: Tensor) -> Tensor:
        static.copy_(images)
        graph.replay()
        return out

    return replay
