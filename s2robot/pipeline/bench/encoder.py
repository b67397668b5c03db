"""`s2robot bench encoder`: all contestants in one process, taking turns, so that a busy machine slows all alike.

Ours and the reference go from uint8 frames to features, the bare backbone from as many tiles, cut and normalised
already. A ratio is the median of the ratios within a repeat. Peak memory is that of a fresh process per contestant.

Dims: b frames, s side of a frame (px).
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from s2robot.encoders import load_encoder
from s2robot.encoders.backbone import resolve_device
from s2robot.errors import S2RobotError
from s2robot.machine import machine
from s2robot.pipeline.bench.contestants import MATMUL_SIDE, Contestant, Kind, Models, Setting
from s2robot.pipeline.measure import peak_memory_mb
from s2robot.progress import progress

MODES = ("eager", "compiled", "graph")
SETTINGS = {
    "cpu": (Setting("float32", "eager"), Setting("bfloat16", "eager"), Setting("bfloat16", "compiled")),
    "cuda": (Setting("float32", "eager"), *(Setting("bfloat16", mode) for mode in MODES)),
}
FASTEST = "our fastest, the reference's default"


@dataclass(frozen=True)
class BenchConfig:
    """What is timed: batches of `frames`, `repeats` times, then `calls` single frames; `threads` are torch's.

    `encoder` is a mapping with a `_target_`, as in configs/encoder; `reference` a checkout, or None. Without `modes` a
    GPU is timed in all of them, the CPU in eager mode.
    """

    encoder: Mapping[str, Any]
    reference: str | None
    modes: tuple[str, ...]
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
        if self.modes and ("eager" not in self.modes or not set(self.modes) <= set(MODES)):
            raise S2RobotError(
                f"modes={list(self.modes)}; give eager, and what else you want of {', '.join(MODES[1:])}"
            )
        if self.reference is not None and not (Path(self.reference) / "s2wrapper" / "__init__.py").exists():
            raise S2RobotError(
                f"reference={self.reference} holds no s2wrapper/__init__.py; give a checkout of "
                "github.com/bfshi/scaling_on_scales, or leave it out"
            )

    def settings(self) -> list[Setting]:
        """The device's, in the wanted modes. Raises S2RobotError for a device that has none."""
        device = resolve_device(self.device)
        if device.type not in SETTINGS:
            raise S2RobotError(f"device={self.device}; the benchmark knows {' and '.join(SETTINGS)}")
        modes = self.modes or (MODES if device.type == "cuda" else ("eager",))
        return [setting for setting in SETTINGS[device.type] if setting.mode in modes]

    def kinds(self) -> tuple[Kind, ...]:
        """Who competes."""
        return ("ours", "bare") if self.reference is None else ("ours", "reference", "bare")


@dataclass(frozen=True)
class Row:
    """One setting. Rates are frames per second in batches. `ours_over_*` is the other's time over ours, so above 1 ours
    is faster. Percentiles are over single frames; `share_of_matmul` is of the rate of one large product. What belongs
    to the reference is None, or absent, where there was none.
    """

    setting: str
    encoder: str
    machine: str
    threads: int
    frames: int
    ours_dtype: str
    ours_mode: str
    reference_dtype: str | None
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
class Measured:
    """Everything that was timed."""

    config: BenchConfig
    encoder: str
    gmac: float
    batch_s: Mapping[Contestant, list[float]]
    single_s: Mapping[Contestant, list[float]]
    peak_mb: Mapping[Contestant, float]

    def row(self, name: str, ours: Setting, reference: Setting) -> Row:
        """Ours and the bare backbone in one setting against the reference in another or the same."""
        device = resolve_device(self.config.device)
        who = {kind: Contestant(kind, reference if kind == "reference" else ours) for kind in self.config.kinds()}
        img_s = {kind: self.config.frames / statistics.median(self.batch_s[one]) for kind, one in who.items()}
        matmul_s = statistics.median(self.batch_s[Contestant("matmul", Setting(ours.dtype, "eager"))])
        rate = MATMUL_SIDE[device.type] ** 3 / matmul_s / 1e9
        return Row(
            setting=f"{device.type} {name}",
            encoder=self.encoder,
            machine=machine(device),
            threads=self.config.threads,
            frames=self.config.frames,
            ours_dtype=ours.dtype,
            ours_mode=ours.mode,
            reference_dtype=reference.dtype if "reference" in who else None,
            ours_img_s=img_s["ours"],
            reference_img_s=img_s.get("reference"),
            bare_img_s=img_s["bare"],
            ours_over_reference=self._ratio(who["ours"], who["reference"]) if "reference" in who else None,
            ours_over_bare=self._ratio(who["ours"], who["bare"]),
            latency_ms={kind: _percentiles(self.single_s[one]) for kind, one in who.items()},
            peak_mb={kind: self.peak_mb[one] for kind, one in who.items()},
            gmac=self.gmac,
            matmul_gmac_s=rate,
            share_of_matmul=img_s["ours"] * self.gmac / rate,
        )

    def _ratio(self, first: Contestant, second: Contestant) -> float:
        return statistics.median(b / a for a, b in zip(self.batch_s[first], self.batch_s[second], strict=True))


def bench_encoder(config: BenchConfig) -> list[Row]:
    """Time all contestants; one row per setting, and with a reference one of our fastest against its default.

    Raises S2RobotError for an encoder that sees nothing, a device without settings, and a mode that does not run here.
    """
    torch.set_num_threads(config.threads)
    device, settings = resolve_device(config.device), config.settings()
    encoder = load_encoder(config.encoder, config.device)
    if not encoder.sizes:
        raise S2RobotError(f"encoder {encoder.name!r} sees nothing; there is nothing to time")
    name = f"{encoder.name} at {', '.join(map(str, encoder.sizes))} px"
    gmac, side = encoder.cost().gmac, encoder.sizes[-1]
    del encoder
    contestants = [Contestant(kind, setting) for setting in settings for kind in config.kinds()]
    peak_mb = {
        contestant: _in_fresh_process(config, contestant, side)
        for contestant in progress(contestants, len(contestants), "memory", "contestant")
    }
    models = Models(config.encoder, device, config.reference)
    yardsticks = [Contestant("matmul", Setting(dtype, "eager")) for dtype in dict.fromkeys(s.dtype for s in settings)]
    batch_s = _time(models, [*contestants, *yardsticks], _frames(config.frames, side), config.repeats, "batches")
    single_s = _time(models, contestants, _frames(1, side), config.calls, "single frames")
    measured = Measured(config, name, gmac, batch_s, single_s, peak_mb)
    rows = [measured.row(f"{setting.dtype} {setting.mode}", setting, setting) for setting in settings]
    if config.reference is not None:
        fastest = max(zip(rows, settings, strict=True), key=lambda pair: pair[0].ours_img_s)[1]
        rows.append(measured.row(FASTEST, fastest, settings[0]))
    return rows


def _time(
    models: Models, contestants: Sequence[Contestant], frames: UInt8[Tensor, "b 3 s s"], repeats: int, what: str
) -> dict[Contestant, list[float]]:
    """Seconds per call and repeat; every repeat starts with another contestant."""
    calls = [(contestant, models.call(contestant, frames)) for contestant in contestants]
    seconds: dict[Contestant, list[float]] = {contestant: [] for contestant in contestants}
    with torch.no_grad():
        for repeat in progress(range(repeats), repeats, what, "repeat"):
            shift = repeat % len(calls)
            for contestant, call in calls[shift:] + calls[:shift]:
                _wait_for(models.device)
                start = time.perf_counter()
                call(frames)
                _wait_for(models.device)
                seconds[contestant].append(time.perf_counter() - start)
    return seconds


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _in_fresh_process(config: BenchConfig, contestant: Contestant, side: int) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_mb, config, contestant, side).result()


def _peak_mb(config: BenchConfig, contestant: Contestant, side: int) -> float:
    """Of one batch on a GPU; of the whole process, libraries and loading included, on the CPU."""
    torch.set_num_threads(config.threads)
    device, frames = resolve_device(config.device), _frames(config.frames, side)
    call = Models(config.encoder, device, config.reference).call(contestant, frames)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with torch.no_grad():
        call(frames)
    return peak_memory_mb(device)


def _frames(count: int, side: int) -> UInt8[Tensor, "b 3 s s"]:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    values = np.percentile(1e3 * np.array(seconds), [50, 95, 99])
    return dict(zip(("p50", "p95", "p99"), map(float, values), strict=True))


def as_text(rows: Sequence[Row]) -> Iterator[str]:
    """The table for people, line by line."""
    first = rows[0]
    yield f"{first.encoder}, {first.machine}, {first.threads} threads, batches of {first.frames}"
    heads = ("ours", "reference", "bare", "to ref.", "to bare", "of matmul", "p50", "p95", "p99 ms", "peak MB")
    yield f"{'frames/s; ratios above 1: ours is faster':44}" + "".join(f"{head:>11}" for head in heads)
    for row in rows:
        cells = [row.ours_img_s, row.reference_img_s, row.bare_img_s]
        texts = ["-" if cell is None else f"{cell:.1f}" for cell in cells]
        texts += ["-" if row.ours_over_reference is None else f"{row.ours_over_reference:.2f} x"]
        texts += [f"{row.ours_over_bare:.2f} x", f"{row.share_of_matmul:.0%}"]
        texts += [f"{value:.1f}" for value in row.latency_ms["ours"].values()] + [f"{row.peak_mb['ours']:.0f}"]
        yield f"{row.setting:44}" + "".join(f"{text:>11}" for text in texts)
