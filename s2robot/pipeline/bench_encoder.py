"""`s2robot bench encoder`: our encoder, the public reference package and the bare backbone, timed against each other.

All have the same weights and run in one process, their calls interleaved, so that a busy machine slows all alike; a
ratio is the median of the ratios within a repeat. `ours` and `package` go from uint8 frames to features, the bare
backbone from as many tiles, cut and normalised already. The package is a checkout of bfshi/scaling_on_scales; it and
the bare backbone run the model as its library builds it. Peak memory is measured in a fresh process per contestant.

Dims: b frames, s side of a frame (px), k tiles.
"""

from __future__ import annotations

import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from s2robot.encoders import MultiscaleEncoder, load_encoder
from s2robot.encoders.backbone import DTYPES, resolve_device
from s2robot.errors import S2RobotError
from s2robot.pipeline.measure import peak_memory_mb
from s2robot.progress import progress

MODES = ("eager", "compiled", "graph")
SETTINGS = {  # device type -> (dtype, mode)
    "cpu": (("float32", "eager"), ("bfloat16", "eager")),
    "cuda": (("float32", "eager"), *(("bfloat16", mode) for mode in MODES)),
}
OURS, PACKAGE, BARE = "ours", "reference", "bare"
FASTEST = "fastest against the reference's default"
WARM_UP = 2
MATMUL = 4096  # side of the product whose rate stands for what the machine can do
Call = Callable[[UInt8[Tensor, "b 3 s s"]], Tensor]


@dataclass(frozen=True)
class BenchConfig:
    """What is timed: batches of `frames`, `repeats` times, then `calls` single frames; `threads` are torch's.

    `encoder` is a mapping with a `_target_`, as in configs/encoder.
    """

    encoder: Mapping[str, Any]
    reference: str | None
    frames: int
    repeats: int
    calls: int
    threads: int
    device: str

    def __post_init__(self) -> None:
        if min(self.frames, self.repeats, self.calls, self.threads) < 1:
            raise S2RobotError(
                f"frames={self.frames}, repeats={self.repeats}, calls={self.calls} and threads={self.threads} are at "
                "least 1"
            )
        if self.reference is not None and not (Path(self.reference) / "s2wrapper" / "__init__.py").exists():
            raise S2RobotError(
                f"reference={self.reference} holds no s2wrapper/__init__.py; give a checkout of "
                "github.com/bfshi/scaling_on_scales, or leave it out"
            )


@dataclass(frozen=True)
class Row:
    """One setting. Rates are frames per second in batches; `*_over_*` is the second's rate over the first's time, so
    above 1 ours is faster. Percentiles are over single frames. None where there was no reference.
    """

    setting: str
    encoder: str
    machine: str
    threads: int
    frames: int
    ours_dtype: str
    reference_dtype: str
    ours_img_s: float
    reference_img_s: float | None
    bare_img_s: float
    ours_over_reference: float | None
    ours_over_bare: float
    latency_ms: Mapping[str, Mapping[str, float]]
    peak_mb: Mapping[str, float]
    gmac: float
    matmul_gmac_s: float
    share_of_matmul: float


@dataclass(frozen=True)
class Contestant:
    """One thing to time, built anew in any process."""

    kind: str
    dtype: str
    mode: str

    @property
    def name(self) -> str:
        """As results are kept under."""
        return f"{self.kind} {self.dtype} {self.mode}"

    def build(self, config: BenchConfig, frames: UInt8[Tensor, "b 3 s s"]) -> Call:
        """The timed call, warmed up. Raises S2RobotError for an encoder that is no MultiscaleEncoder."""
        ours = self.kind == OURS
        encoder = load_encoder(config.encoder, config.device, self.dtype, **({} if ours else {"reference": True}))
        if not isinstance(encoder, MultiscaleEncoder):
            raise S2RobotError(f"encoder {encoder.name!r} is not multi-scale; there is nothing to compare")
        if self.mode == "compiled":
            encoder.backbone.model = torch.compile(encoder.backbone.model)
        with torch.no_grad():
            call = {OURS: _ours, PACKAGE: _package, BARE: _bare}[self.kind](encoder, config)
            for _ in range(WARM_UP):
                call(frames)
            return _captured(call, frames) if self.mode == "graph" else call


def bench_encoder(config: BenchConfig) -> list[Row]:
    """Time all contestants of the device; one row per dtype and mode, and one of our fastest against its default."""
    torch.set_num_threads(config.threads)
    device = resolve_device(config.device)
    encoder = load_encoder(config.encoder, config.device)
    if not encoder.sizes:
        raise S2RobotError(f"encoder {encoder.name!r} sees nothing; there is nothing to time")
    kinds = (OURS, BARE) if config.reference is None else (OURS, PACKAGE, BARE)
    settings = SETTINGS[device.type]
    contestants = [Contestant(kind, *setting) for setting in settings for kind in kinds]
    name = f"{encoder.name} at {', '.join(map(str, encoder.sizes))} px"
    gmac, side = encoder.cost().gmac, encoder.sizes[-1]
    del encoder
    peak_mb = {
        c.name: _in_fresh_process(config, c, side)
        for c in progress(contestants, len(contestants), "memory", "contestant")
    }
    batch_s = _time(config, contestants, config.frames, side, config.repeats, "batches")
    single_s = _time(config, contestants, 1, side, config.calls, "single frames")
    rates = {dtype: _matmul_gmac_s(DTYPES[dtype], device) for dtype, _ in settings}
    shared = (config, name, gmac, batch_s, single_s, peak_mb, rates)
    rows = [_row(f"{device.type} {dtype} {mode}", (dtype, mode), (dtype, mode), *shared) for dtype, mode in settings]
    fastest = min(settings, key=lambda setting: statistics.median(batch_s[Contestant(OURS, *setting).name]))
    return [*rows, _row(f"{device.type}, {FASTEST}", fastest, settings[0], *shared)]


def _row(
    setting: str,
    ours: tuple[str, str],
    other: tuple[str, str],
    config: BenchConfig,
    encoder: str,
    gmac: float,
    batch_s: Mapping[str, list[float]],
    single_s: Mapping[str, list[float]],
    peak_mb: Mapping[str, float],
    rates: Mapping[str, float],
) -> Row:
    names = {OURS: Contestant(OURS, *ours).name, BARE: Contestant(BARE, *ours).name}
    if config.reference is not None:
        names[PACKAGE] = Contestant(PACKAGE, *other).name
    img_s = {kind: config.frames / statistics.median(batch_s[name]) for kind, name in names.items()}

    def over(kind: str) -> float:
        return statistics.median(b / a for a, b in zip(batch_s[names[OURS]], batch_s[names[kind]], strict=True))

    return Row(
        setting=setting,
        encoder=encoder,
        machine=_machine(resolve_device(config.device)),
        threads=config.threads,
        frames=config.frames,
        ours_dtype=ours[0],
        reference_dtype=other[0],
        ours_img_s=img_s[OURS],
        reference_img_s=img_s.get(PACKAGE),
        bare_img_s=img_s[BARE],
        ours_over_reference=over(PACKAGE) if PACKAGE in names else None,
        ours_over_bare=over(BARE),
        latency_ms={kind: _percentiles(single_s[name]) for kind, name in names.items()},
        peak_mb={kind: peak_mb[name] for kind, name in names.items()},
        gmac=gmac,
        matmul_gmac_s=rates[ours[0]],
        share_of_matmul=img_s[OURS] * gmac / rates[ours[0]],
    )


def _time(
    config: BenchConfig, contestants: Sequence[Contestant], frames: int, side: int, repeats: int, what: str
) -> dict[str, list[float]]:
    """Seconds per call and repeat; every repeat starts with another contestant."""
    images = _frames(frames, side)
    calls = [(contestant.name, contestant.build(config, images)) for contestant in contestants]
    seconds: dict[str, list[float]] = {name: [] for name, _ in calls}
    with torch.no_grad():
        for repeat in progress(range(repeats), repeats, what, "repeat"):
            shift = repeat % len(calls)
            for name, call in calls[shift:] + calls[:shift]:
                start = time.perf_counter()
                call(images)
                _synchronise()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _ours(encoder: MultiscaleEncoder, config: BenchConfig) -> Call:
    return lambda frames: encoder(frames).tokens


def _package(encoder: MultiscaleEncoder, config: BenchConfig) -> Call:
    assert config.reference is not None
    sys.path.insert(0, config.reference)
    try:
        forward = import_module("s2wrapper").forward
    except ImportError as error:
        raise S2RobotError(
            f"reference={config.reference} does not import ({error}); `pip install {error.name}`"
        ) from error
    finally:
        sys.path.remove(config.reference)
    backbone = encoder.backbone
    mean, std = (torch.tensor(v, device=encoder.device).view(3, 1, 1) for v in (backbone.mean, backbone.std))
    options = {
        "img_sizes": list(encoder.sizes),
        "max_split_size": encoder.tile,
        "num_prefix_token": backbone.num_prefix_tokens,
    }

    def call(frames: Tensor) -> Tensor:
        images = (frames.to(encoder.device).float() / 255 - mean) / std
        return forward(backbone.model, images.to(backbone.dtype), **options)

    return call


def _bare(encoder: MultiscaleEncoder, config: BenchConfig) -> Call:
    """As many tiles of as many sides as the encoder cuts, one batch per side."""
    tiles: dict[tuple[int, int], Tensor] = {}
    sides = [size // count for size, count in zip(encoder.sizes, encoder.splits, strict=True)]

    def call(frames: Tensor) -> Tensor:
        for side in dict.fromkeys(sides):
            count = len(frames) * sum(k * k for s, k in zip(sides, encoder.splits, strict=True) if s == side)
            if (count, side) not in tiles:
                tiles[count, side] = torch.randn(count, 3, side, side).to(encoder.device, encoder.backbone.dtype)
            out = encoder.backbone.model(tiles[count, side])
        return out

    return call


def _captured(call: Call, frames: Tensor) -> Call:
    """The call as a CUDA graph on a copy of its input (PyTorch's documentation, "CUDA graphs")."""
    static = frames.to("cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(static)

    def replay(images: Tensor) -> Tensor:
        static.copy_(images)
        graph.replay()
        return out

    return replay


def _in_fresh_process(config: BenchConfig, contestant: Contestant, side: int) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_mb, config, contestant, side).result()


def _peak_mb(config: BenchConfig, contestant: Contestant, side: int) -> float:
    torch.set_num_threads(config.threads)
    frames = _frames(config.frames, side)
    contestant.build(config, frames)(frames)
    return peak_memory_mb(resolve_device(config.device))


def _frames(count: int, side: int) -> UInt8[Tensor, "b 3 s s"]:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _matmul_gmac_s(dtype: torch.dtype, device: torch.device) -> float:
    """GMAC/s of one large product: what the machine can do in this dtype with these threads."""
    side = MATMUL if device.type == "cuda" else MATMUL // 4
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(WARM_UP + 8):
        start = time.perf_counter()
        a @ b
        _synchronise()
        best = min(best, time.perf_counter() - start)
    return side**3 / best / 1e9


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    values = np.percentile(1e3 * np.array(seconds), [50, 95, 99])
    return dict(zip(("p50", "p95", "p99"), map(float, values), strict=True))


def _machine(device: torch.device) -> str:
    """Processor or GPU, and torch's version."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, torch {torch.__version__}"


def as_text(rows: Sequence[Row]) -> Iterator[str]:
    """The table for people, line by line."""
    first = rows[0]
    yield f"{first.encoder}, {first.machine}, {first.threads} threads, batches of {first.frames}"
    heads = ("ours", "package", "bare", "to package", "to bare", "of matmul", "p50", "p95", "p99 ms", "peak MB")
    yield f"{'frames/s; ratios above 1: ours is faster':42}" + "".join(f"{head:>11}" for head in heads)
    for row in rows:
        cells = [row.ours_img_s, row.reference_img_s, row.bare_img_s]
        texts = ["-" if cell is None else f"{cell:.1f}" for cell in cells]
        texts += ["-" if row.ours_over_reference is None else f"{row.ours_over_reference:.2f} x"]
        texts += [f"{row.ours_over_bare:.2f} x", f"{row.share_of_matmul:.0%}"]
        texts += [f"{value:.1f}" for value in row.latency_ms[OURS].values()] + [f"{row.peak_mb[OURS]:.0f}"]
        yield f"{row.setting:42}" + "".join(f"{text:>11}" for text in texts)
