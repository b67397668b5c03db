"""Equal compute: the sizes that make a small backbone as expensive as a larger encoder, and the check that they do.

Comparing encoders of different compute answers another question, so a comparison called matched is refused beyond a
tolerance. Equal multiply-accumulates are not equal milliseconds: reports show both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from s2robot.encoders.backbone import Backbone
from s2robot.encoders.cost import count_gmac
from s2robot.encoders.interface import Encoder
from s2robot.errors import MismatchError, S2RobotError

MAX_SCALES = 4  # the paper goes to three; a dozen scales of a tiny model are no encoder that anybody wants
COUNTED = 3  # of the sides: counting takes up to a second each


def match_sizes(
    target: Encoder, backbone: Backbone, tolerance: float = 0.05, side: int | None = None
) -> tuple[int, ...]:
    """The sizes (t, 2t, ..., kt) in px, two at least, at which `backbone` costs what `target` costs; the tile is t.

    `side`, by default the one that the backbone was trained at, is tried first: tiles of that side need no
    interpolated position embedding. Only where none of its multiples lies within `tolerance` (a ratio of GMAC less
    one) does t move, in steps of the patch between half and twice that side.

    k sizes are 1 + 4 + ... + k^2 tiles. ViT-Ti/16 at 112 px costs 0.28 GMAC, so against ViT-S/16 at 128 px, 1.44:
    k = 2 costs 1.42, k = 3 costs 3.97; (112, 224) it is, at a ratio of 0.99.

    Raises S2RobotError where target or backbone give nothing to match, MismatchError where nothing comes near enough.
    """
    wanted = target.cost().gmac
    usual = side or backbone.image_size
    if wanted <= 0 or not usual:
        raise S2RobotError(
            f"cannot match {backbone.name} (trained at {backbone.image_size} px) to {target.name} ({wanted:.3g} GMAC); "
            "give an encoder that costs something and a backbone with its image_size"
        )
    patch = backbone.patch
    others = range(-(-usual // (2 * patch)) * patch, 2 * usual + 1, patch)
    ratio, sizes = _nearest(backbone, [usual], wanted)
    if _excess(ratio) > tolerance:
        ratio, sizes = _nearest(backbone, others, wanted)
    if _excess(ratio) > tolerance:
        raise MismatchError(
            f"no sizes of {backbone.name} cost {wanted:.3f} GMAC within {tolerance:.0%}: nearest is {list(sizes)} "
            f"at {ratio:.2f} times that; take another target size or a larger tolerance"
        )
    return sizes


def matched(a: Encoder, b: Encoder, tolerance: float = 0.05) -> float:
    """GMAC of `a` over GMAC of `b`. Raises MismatchError where it is further from 1 than `tolerance`, either way."""
    cost_a, cost_b = a.cost().gmac, b.cost().gmac
    if min(cost_a, cost_b) <= 0 or _excess(cost_a / cost_b) > tolerance:
        raise MismatchError(
            f"{a.name} at {list(a.sizes)} costs {cost_a:.3f} GMAC and {b.name} at {list(b.sizes)} {cost_b:.3f}: "
            f"not matched within {tolerance:.0%}; match_sizes() gives sizes that are"
        )
    return cost_a / cost_b


def _nearest(backbone: Backbone, sides: Sequence[int], wanted: float) -> tuple[float, tuple[int, ...]]:
    """(ratio to `wanted`, sizes) of the candidate whose ratio is nearest to 1 on a logarithmic scale."""
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))

    @functools.cache
    def tile_gmac(side: int) -> float:
        return count_gmac(backbone, torch.zeros(1, 3, side, side, device=device))

    about = _fitted(tile_gmac, sides) if len(sides) > COUNTED else tile_gmac
    candidates = []
    for side in sides:
        tiles, k = 1, 1
        while k == 1 or (k < MAX_SCALES and tiles * about(side) < wanted):  # the first that costs more is a candidate
            k += 1
            tiles += k * k
            candidates.append((_excess(tiles * about(side) / wanted), tiles, side, k))
    counted = [(tiles * tile_gmac(side) / wanted, side, k) for _, tiles, side, k in sorted(candidates)[:COUNTED]]
    ratio, side, k = min(counted, key=lambda candidate: _excess(candidate[0]))
    return ratio, tuple(side * i for i in range(1, k + 1))


def _fitted(tile_gmac: Callable[[int], float], sides: Sequence[int]) -> Callable[[int], float]:
    """What a tile of any side costs, from counts of three: attention is quadratic in the cells, all else linear."""
    three = (sides[0], sides[len(sides) // 2], sides[-1])
    quadratic = np.polynomial.Polynomial.fit([side**2 for side in three], [tile_gmac(side) for side in three], 2)
    return lambda side: float(quadratic(side**2))


def _excess(ratio: float) -> float:
    """How far a ratio is from 1, the same for x and 1 / x: 0.95 and 1.053 both exceed by 5.3 %."""
    return max(ratio, 1 / ratio) - 1
