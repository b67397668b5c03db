"""Scaling on Scales (S2): one frozen model run on several sizes of the same image.

Shi et al., *When Do We Not Need Larger Vision Models?*, arXiv 2403.13043. Each scale is cut into tiles no
larger than the model was trained on, the tiles' maps are stitched, brought to the grid of one scale, the first unless
told otherwise, and concatenated along channels. The model's weights are untouched and its input never grows, so the
cost is linear in the number of tiles.

Dims: b images, h w height and width (px), k tiles per side, s side of a tile (px), gh gw rows and columns of a map,
c channels of the model, d = c * number of sizes, n tokens, q prefix tokens (class and register tokens).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from s2robot.errors import S2RobotError

Model = Callable[[Tensor], Tensor]


class MultiscaleMaps(NamedTuple):
    """The spatial map of all scales and, apart from it, the prefix tokens (q = 0 where there are none)."""

    map: Float[Tensor, "b d gh gw"]
    prefix: Float[Tensor, "b q d"]


def multiscale_forward(
    model: Model,
    images: Float[Tensor, "b 3 h h"],
    sizes: Sequence[int],
    tile: int | None = None,
    num_prefix_tokens: int = 0,
    output: Literal["bnc", "bchw"] = "bnc",
    reference: bool = False,
    resize_output_to_idx: int = 0,
) -> Float[Tensor, "b n d"] | Float[Tensor, "b d gh gw"]:
    """S2 features of any callable `(b, 3, s, s) -> (b, n, c)` or `(b, c, h, w)`.

    `images` are square and already normalised for the model. `sizes` are sides in px, ascending; `tile` is the
    largest side the model may see and defaults to the first size. All tiles of equal side go through the model in one
    batch. The result has c * len(sizes) channels; prefix tokens, averaged over the tiles of a scale, come first.

    `resize_output_to_idx` says whose grid all scales are brought to, by area: 0 is the first size, whose cells hold the
    means of finer ones; with the last, nothing is averaged and coarser cells are repeated, for as many tokens more.

    `reference=True` resizes as published: bicubic without antialiasing even when shrinking. The default antialiases
    when it shrinks.

    Raises S2RobotError on images that are not float, square and 4-d, on sizes that do not ascend or do not divide into
    equal tiles, on an index of no size, and on a model output that is neither a square token sequence nor a map.
    """
    if output not in ("bnc", "bchw"):
        raise S2RobotError(f"output={output!r}; allowed: 'bnc' (tokens) or 'bchw' (a map)")
    if output == "bchw" and num_prefix_tokens:
        raise S2RobotError(f"a map has no place for {num_prefix_tokens} prefix tokens; use output='bnc'")
    map_, prefix = multiscale_maps(model, images, sizes, tile, num_prefix_tokens, reference, resize_output_to_idx)
    if output == "bchw":
        return map_
    tokens = map_.flatten(2).transpose(1, 2)
    return torch.cat([prefix, tokens], dim=1) if num_prefix_tokens else tokens


def multiscale_maps(
    model: Model,
    images: Float[Tensor, "b 3 h h"],
    sizes: Sequence[int],
    tile: int | None = None,
    num_prefix_tokens: int = 0,
    reference: bool = False,
    resize_output_to_idx: int = 0,
) -> MultiscaleMaps:
    """`multiscale_forward` before it is flattened: the map and the prefix tokens. Same arguments and errors."""
    _check_images(images)
    splits = tile_counts(sizes, tile)
    check_index(sizes, resize_output_to_idx)
    tiles = [split(resize(images, size, antialias=not reference), k) for size, k in zip(sizes, splits, strict=True)]
    parts = [separate_prefix(out, num_prefix_tokens) for out in run_in_batches(model, tiles)]
    maps = [merge(part.map, k) for part, k in zip(parts, splits, strict=True)]
    rows, columns = maps[resize_output_to_idx].shape[-2:]
    pooled = [area_pool(m, (rows, columns)) for m in maps]
    # (k * k * b, q, c) -> (b, q, c): every tile has its own class token, the scale gets their mean.
    prefixes = [part.prefix.unflatten(0, (-1, len(images))).mean(0) for part in parts]
    return MultiscaleMaps(torch.cat(pooled, dim=1), torch.cat(prefixes, dim=-1))


def tile_counts(sizes: Sequence[int], tile: int | None = None) -> list[int]:
    """Tiles per side of each size: ceil(size / tile). Raises S2RobotError where the sizes cannot be cut so.

    The side of a tile is size / count and may come out smaller than `tile`: 192 at tile 112 is 2 x 2 tiles of 96 px.
    """
    if isinstance(sizes, int | str) or not all(isinstance(size, numbers.Integral) for size in sizes):
        raise S2RobotError(f"sizes={sizes!r}; give a list of whole sides in px, e.g. [112, 224]")
    if not sizes or min(sizes) < 1 or list(sizes) != sorted(set(sizes)):
        raise S2RobotError(f"sizes={list(sizes)}; give at least one side in px, ascending, each once, e.g. [112, 224]")
    tile = sizes[0] if tile is None else tile
    if tile < 1:
        raise S2RobotError(f"tile={tile}; the side of a tile is at least 1 px, by default the first size")
    counts = [math.ceil(size / tile) for size in sizes]
    for size, count in zip(sizes, counts, strict=True):
        if size % count:
            near = max(1, round(size / tile)) * tile  # a patch that divides the tile divides it too
            raise S2RobotError(
                f"size {size} does not divide into {count} x {count} tiles of at most {tile} px; use {near}"
            )
    return counts


def check_index(sizes: Sequence[int], resize_output_to_idx: int) -> None:
    """Raises S2RobotError where that is the index of no size."""
    if resize_output_to_idx not in range(len(sizes)):
        raise S2RobotError(
            f"resize_output_to_idx={resize_output_to_idx}; the indices of sizes={list(sizes)} are 0 to {len(sizes) - 1}"
        )


def resize(images: Float[Tensor, "b c h w"], size: int, antialias: bool = True) -> Float[Tensor, "b c s s"]:
    """Bicubic resize to a square, in float32, antialiased only when shrinking; the identity where the size is right.

    torch's antialiased kernel is another cubic (a = -0.5) than its plain one (-0.75), so enlarging always takes the
    plain one and agrees with the published algorithm.
    """
    height, width = images.shape[-2:]
    if height == width == size:
        return images
    shrinks = size < min(height, width)
    out = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=antialias and shrinks)
    return out.to(images.dtype)


def split(images: Shaped[Tensor, "b c h w"], k: int) -> Shaped[Tensor, "kkb c s s"]:
    """Cut each image into k x k tiles, stacked on the batch axis with the image index running fastest.

    k = 2, two images A and B of 2 x 2 px:   A = 1 2   B = 5 6
                                                 3 4       7 8
    gives the batch of 1 x 1 tiles           1 5 2 6 3 7 4 8
    """
    if k == 1:
        return images
    b, c, h, w = images.shape
    blocks = images.reshape(b, c, k, h // k, k, w // k)
    return blocks.permute(2, 4, 0, 1, 3, 5).reshape(k * k * b, c, h // k, w // k)


def merge(tiles: Shaped[Tensor, "kkb c s s"], k: int) -> Shaped[Tensor, "b c gh gw"]:
    """Stitch k x k tiles: the inverse of `split`, also for maps whose side is not that of the images."""
    if k == 1:
        return tiles
    kkb, c, h, w = tiles.shape
    blocks = tiles.reshape(k, k, kkb // (k * k), c, h, w)
    return blocks.permute(2, 3, 0, 4, 1, 5).reshape(kkb // (k * k), c, k * h, k * w)


def area_pool(map_: Float[Tensor, "b c h w"], grid: tuple[int, int]) -> Float[Tensor, "b c gh gw"]:
    """Mean over the cells that overlap each cell of `grid`, in float32; the identity where the grid is right.

    A finer `grid` repeats cells.
    """
    if map_.shape[-2:] == grid:
        return map_
    return F.adaptive_avg_pool2d(map_.float(), grid).to(map_.dtype)


def run_in_batches(model: Model, tiles: list[Tensor]) -> list[Tensor]:
    """Run the model once per side of tile, not once per scale: (112, 224) at tile 112 is one batch of 5 b tiles.

    Raises S2RobotError where it gives another number of rows than it got.
    """
    outputs: dict[int, Tensor] = {}
    for side in {t.shape[-1] for t in tiles}:
        group = [i for i, t in enumerate(tiles) if t.shape[-1] == side]
        counts = [len(tiles[i]) for i in group]
        out = model(torch.cat([tiles[i] for i in group]) if len(group) > 1 else tiles[group[0]])
        if not isinstance(out, Tensor) or len(out) != sum(counts):
            came = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise S2RobotError(
                f"the model gave {came} for {sum(counts)} tiles; it must return one tensor with as many rows"
            )
        outputs.update(zip(group, out.split(counts), strict=True))
    return [outputs[i] for i in range(len(tiles))]


def separate_prefix(out: Tensor, num_prefix_tokens: int) -> MultiscaleMaps:
    """A model's output as a map and its prefix tokens: (b, q + h * w, c) -> (b, c, h, w), (b, q, c).

    Raises S2RobotError for tokens that are no square grid.
    """
    if out.ndim == 4 and num_prefix_tokens == 0:
        return MultiscaleMaps(out, out.new_empty(len(out), 0, out.shape[1]))
    if out.ndim != 3:
        raise S2RobotError(
            f"the model gave shape {tuple(out.shape)} with {num_prefix_tokens} prefix tokens; "
            "allowed: tokens (b, n, c), or a map (b, c, h, w) without prefix tokens"
        )
    prefix, tokens = out[:, :num_prefix_tokens], out[:, num_prefix_tokens:]
    side = math.isqrt(tokens.shape[1])
    if side == 0 or side * side != tokens.shape[1]:
        raise S2RobotError(
            f"{out.shape[1]} tokens less {num_prefix_tokens} prefix tokens are {tokens.shape[1]}, not a square grid; "
            "set num_prefix_tokens to the number of class and register tokens that come first"
        )
    return MultiscaleMaps(tokens.transpose(1, 2).unflatten(2, (side, side)), prefix)


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        raise S2RobotError(
            f"images are {images.dtype} of shape {tuple(images.shape)}; "
            "expected normalised float images (b, 3, h, w); MultiscaleEncoder takes uint8"
        )
    if images.shape[-1] != images.shape[-2]:
        raise S2RobotError(
            f"images are {images.shape[-2]} x {images.shape[-1]} px, expected squares; crop or pad them first, "
            "as MultiscaleEncoder(square='crop' | 'pad') does"
        )
