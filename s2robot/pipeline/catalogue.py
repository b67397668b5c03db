"""What every encoder of the catalogue costs, known without its weights, and which sizes make small ones cost as much.

Dims: none; sizes and sides are px.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from s2robot.encoders import Encoder, MultiscaleEncoder, count_gmac, load_encoder, match_sizes
from s2robot.encoders.load import encoder_config
from s2robot.errors import MismatchError, S2RobotError

SCALES = ((1,), (1, 2), (1, 2, 3))
WARM_UP, CALLS, BUDGET_S = 2, 20, 5.0  # a large model is timed fewer times, but at least twice


@dataclass(frozen=True)
class Entry:
    """One encoder. `gmac` is at its own sizes, `gmac_scales` at 1, (1, 2) and (1, 2, 3) times its first size.

    `latency_ms` is the median over single frames of the largest size, None where it was not measured.
    """

    name: str
    sizes: tuple[int, ...]
    params: int
    tokens: int
    tiles: int
    gmac: float
    gmac_scales: tuple[float, ...]
    latency_ms: float | None
    dtype: str
    licence: str


@dataclass(frozen=True)
class Match:
    """The sizes at which `name` costs what a target costs; `ratio` is its GMAC over the target's."""

    name: str
    sizes: tuple[int, ...]
    ratio: float


class ZerosForRandom(TorchFunctionMode):
    """Weights begin at zero where they would be drawn: what costs the same is built in half of the time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "kaiming_uniform_"):
            with torch.no_grad():
                return (args[0] if args else kwargs["tensor"]).zero_()
        return func(*args, **kwargs)


def without_weights(name: str, device: str = "auto") -> Encoder:
    """The encoder of the catalogue as an architecture: zeros for weights where the real ones would have to be fetched.

    Raises S2RobotError where the catalogue does not say what it is (`hf` without a path).
    """
    changes = {"weights": "random"} if "card" in encoder_config(name) else {}
    with ZerosForRandom():
        return load_encoder(name, device, **changes)


def survey(names: Sequence[str], device: str = "auto", latency: bool = True) -> Iterator[Entry | tuple[str, str]]:
    """One entry per name, or the name and why there is none."""
    for name in names:
        try:
            encoder = without_weights(name, device)
        except S2RobotError as error:
            yield name, str(error)
            continue
        spec, cost = encoder.spec(), encoder.cost()
        yield Entry(
            name=name,
            sizes=encoder.sizes,
            params=cost.params,
            tokens=cost.tokens,
            tiles=cost.tiles,
            gmac=cost.gmac,
            gmac_scales=_gmac_scales(encoder),
            latency_ms=_latency_ms(encoder) if latency and encoder.sizes else None,
            dtype=spec["dtype"],
            licence=spec.get("origin", {}).get("licence") or "this project's",
        )
        del encoder  # before the next one is built


def require_target(name: str) -> Encoder:
    """An encoder that others can be matched to. Raises S2RobotError where it cannot be built or costs nothing."""
    encoder = without_weights(name, "cpu")
    if encoder.cost().gmac <= 0:
        raise S2RobotError(f"match={name}: it costs nothing, so nothing matches it")
    return encoder


def matches(target: str, names: Sequence[str], tolerance: float = 0.05) -> Iterator[Match | tuple[str, str]]:
    """For every encoder of `names` with fewer weights, the S2 sizes that cost what `target` does, or why none.

    Raises S2RobotError as `require_target`.
    """
    wanted = require_target(target)
    cost = wanted.cost()
    for name in names:
        try:
            encoder = without_weights(name, "cpu")
        except S2RobotError:
            continue
        if not isinstance(encoder, MultiscaleEncoder) or encoder.cost().params >= cost.params:
            continue
        if encoder.cost().gmac <= 0:  # pixels, in any number of scales
            continue
        try:
            sizes = match_sizes(wanted, encoder.backbone, tolerance, encoder.sizes[0])
        except MismatchError as error:
            yield name, str(error)
            continue
        tile_gmac = count_gmac(encoder.backbone, _blank(sizes[0], encoder))
        yield Match(name, sizes, tile_gmac * sum(k * k for k in range(1, len(sizes) + 1)) / cost.gmac)


def _gmac_scales(encoder: Encoder) -> tuple[float, ...]:
    """k times the first size is k * k tiles of that size."""
    if not isinstance(encoder, MultiscaleEncoder):
        return (0.0,) * len(SCALES)
    tile = count_gmac(encoder.backbone, _blank(encoder.sizes[0], encoder))
    return tuple(sum(k * k for k in scales) * tile for scales in SCALES)


def _blank(side: int, encoder: Encoder) -> torch.Tensor:
    return torch.zeros(1, 3, side, side, device=encoder.device)


def _latency_ms(encoder: Encoder) -> float:
    frame = torch.zeros(1, 3, encoder.sizes[-1], encoder.sizes[-1], dtype=torch.uint8)
    times_s: list[float] = []
    while len(times_s) < WARM_UP + CALLS and not (len(times_s) > WARM_UP + 1 and sum(times_s) > BUDGET_S):
        start_s = time.perf_counter()
        encoder(frame).tokens.cpu()
        times_s.append(time.perf_counter() - start_s)
    return 1e3 * statistics.median(times_s[WARM_UP:])
