"""The encoder of this project: uint8 frames in, frozen S2 features out, preprocessing inside.

Dims: b images, h w image height and width (px), s side after squaring (px), n = gh * gw spatial tokens, q prefix
tokens, c channels of the backbone times the number of sizes.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from s2robot.allocator import keep_freed_memory
from s2robot.encoders.backbone import Backbone, resolve_device, resolve_dtype
from s2robot.encoders.cost import Cost, count_gmac
from s2robot.encoders.interface import Features
from s2robot.encoders.multiscale import MultiscaleMaps, area_pool, check_index, multiscale_maps, tile_counts
from s2robot.errors import S2RobotError
from s2robot.storage import fingerprint

SQUARE_RULES = ("crop", "pad")
# Raised whenever the same weights and settings would give other features than before: old caches are then not used.
PREPROCESSING_VERSION = 2


class MultiscaleEncoder(nn.Module):
    """A frozen backbone at one size (`sizes=(112,)`) or several (`(112, 224)`, which is S2, arXiv 2403.13043).

    Frames become squares by `square`: `crop` takes the central square, `pad` centres the frame on a square of the
    backbone's mean colour. They are scaled to [0, 1], normalised with the backbone's mean and std, and resized to each
    size (bicubic, in float32; antialiased when shrinking unless `reference`). `tile` defaults to the first size. The
    map has the grid of the size that `resize_output_to_idx` points at, the first (`multiscale_forward`);
    `grid=(gh, gw)` area-pools it. `dtype` is what the backbone computes in: auto, float32 or bfloat16. `reference` runs
    everything as published, at the speed of the model as its library builds it.

    Frozen: nothing requires grad, `train()` does nothing, and features carry no gradient. Raises S2RobotError where
    sizes, tile, patch and grid do not fit each other.
    """

    _scale: Tensor
    _shift: Tensor

    def __init__(
        self,
        backbone: Backbone,
        sizes: Sequence[int],
        tile: int | None = None,
        grid: Sequence[int] | None = None,
        square: Literal["crop", "pad"] = "crop",
        dtype: str = "auto",
        device: str = "auto",
        reference: bool = False,
        resize_output_to_idx: int = 0,
    ) -> None:
        super().__init__()
        if square not in SQUARE_RULES:
            raise S2RobotError(f"square={square!r}; allowed: {', '.join(SQUARE_RULES)}")
        self.splits = tuple(tile_counts(sizes, tile))
        self.sizes = tuple(map(int, sizes))
        self.tile = self.sizes[0] if tile is None else tile
        self.square = square
        self.reference = reference
        check_index(sizes, resize_output_to_idx)
        self.resize_output_to_idx = resize_output_to_idx
        _check_patch(backbone, self.sizes, self.splits)
        keep_freed_memory()
        place = resolve_device(device)
        self.name = backbone.name
        self.backbone = backbone.to(place).cast(resolve_dtype(dtype, place))
        sides = [size // count for size, count in zip(self.sizes, self.splits, strict=True)]
        self.backbone.choose_attention(max(sides), published=reference)
        # (x / 255 - mean) / std as one multiplication and one addition.
        std = torch.tensor(backbone.std, device=place).view(3, 1, 1)
        self.register_buffer("_scale", 1 / (255 * std), persistent=False)
        self.register_buffer("_shift", -torch.tensor(backbone.mean, device=place).view(3, 1, 1) / std, persistent=False)
        self.grid, self.channels, self.num_prefix_tokens = self._probe(grid)
        self._weights_at_start = backbone.weights_sha256()
        self.fingerprint = fingerprint(self._identity())
        self._gmac: float | None = None
        super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the features are computed."""
        return self._shift.device

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Features:
        """Features of RGB frames, upright, on any device; they come back on the encoder's.

        Raises S2RobotError on anything but uint8 (b, 3, h, w) with b > 0, and on frames smaller than the largest size.
        """
        map_, prefix = self._maps(self.normalised_squares(images))
        tokens = area_pool(map_, self.grid).flatten(2).transpose(1, 2)
        return Features(tokens.contiguous(), self.grid, prefix)

    def encode_rows(self, images: UInt8[Tensor, "b 3 h w"], rows: int = 8) -> Features:
        """As calling the encoder, in chunks of exactly `rows` frames, the last one filled up with its first frame.

        Matrix products of different shapes may round differently. With one shape throughout, a frame's features are
        the same bits at any position and beside any others: outcomes then do not depend on how many environments run.
        """
        if rows < 1:
            raise S2RobotError(f"rows={rows}; at least one frame goes through at a time")
        parts = []
        for chunk in images.split(rows):
            filler = chunk[:1].expand(rows - len(chunk), *chunk.shape[1:])
            parts.append(self(torch.cat([chunk, filler]) if len(filler) else chunk))
        tokens = torch.cat([part.tokens for part in parts])[: len(images)]
        return Features(tokens, self.grid, torch.cat([part.prefix for part in parts])[: len(images)])

    def train(self, mode: bool = True) -> MultiscaleEncoder:
        """Does nothing: the encoder is frozen."""
        return self

    def weights_sha256(self) -> str:
        """Hash of the weights as they are now: equal before and after training, or the encoder was not frozen."""
        return self.backbone.weights_sha256()

    def check_frame(self, height: int, width: int) -> None:
        """Raise S2RobotError for frames that are too small for it: the shorter side counts, with padding the longer."""
        side = min(height, width) if self.square == "crop" else max(height, width)
        if side < self.sizes[-1]:
            raise S2RobotError(
                f"frames of {height} x {width} px are smaller than the largest scale, {self.sizes[-1]} px: "
                "re-render them at that size or larger, or use smaller sizes"
            )

    def cost(self, height: int | None = None, width: int | None = None) -> Cost:
        """Cost of one frame of `height` x `width` px, the largest size unless given.

        A larger frame costs no more: it is resized. Raises S2RobotError on a frame that the encoder refuses.
        """
        largest = self.sizes[-1]
        self.check_frame(height or largest, width or height or largest)
        if self._gmac is None:
            blank = torch.zeros(1, 3, largest, largest, device=self.device)
            self._gmac = count_gmac(self._maps, blank, weights=self.backbone)
        tokens = self.grid[0] * self.grid[1] + self.num_prefix_tokens
        return Cost(self._gmac, self.backbone.num_params(), sum(k * k for k in self.splits), tokens)

    def spec(self) -> dict[str, Any]:
        """Everything that decides the features, plus their shape and the fingerprint, in plain JSON types."""
        shape = {"channels": self.channels, "num_prefix_tokens": self.num_prefix_tokens}
        about = {"origin": self.backbone.origin, "fingerprint": self.fingerprint}
        return {"name": self.name, **self._identity(), **shape, **about}

    def _identity(self) -> dict[str, Any]:
        backbone = self.backbone
        # Named only where it is not the first size, so that caches of before it could be chosen are still used.
        of_another = {"resize_output_to_idx": self.resize_output_to_idx} if self.resize_output_to_idx else {}
        return {
            "preprocessing": PREPROCESSING_VERSION,
            "sizes": list(self.sizes),
            "tile": self.tile,
            "grid": list(self.grid),
            **of_another,
            "square": self.square,
            "reference": self.reference,
            "mean": list(backbone.mean),
            "std": list(backbone.std),
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "architecture": backbone.architecture,
            "weights_sha256": self._weights_at_start,
        }

    @property
    def multiscale(self) -> Callable[[Callable[[Tensor], Tensor], Tensor], MultiscaleMaps]:
        """(model, squares) -> what this encoder's scales make of any model like its backbone, a trained one too."""
        return partial(
            multiscale_maps,
            sizes=self.sizes,
            tile=self.tile,
            num_prefix_tokens=self.backbone.num_prefix_tokens,
            reference=self.reference,
            resize_output_to_idx=self.resize_output_to_idx,
        )

    def _maps(self, squares: Float32[Tensor, "b 3 s s"]) -> MultiscaleMaps:
        return self.multiscale(self.backbone, squares)

    def _probe(self, grid: Sequence[int] | None) -> tuple[tuple[int, int], int, int]:
        """Grid, channels and prefix tokens, learnt from one tile; also finds a backbone that does not fit early."""
        tiles = self.splits[self.resize_output_to_idx]
        side = self.sizes[self.resize_output_to_idx] // tiles
        blank = torch.zeros(1, 3, side, side, device=self.device)
        map_, prefix = multiscale_maps(self.backbone, blank, (side,), side, self.backbone.num_prefix_tokens)
        rows, columns = (cells * tiles for cells in map_.shape[-2:])
        wanted = (rows, columns) if grid is None else tuple(grid)
        whole = len(wanted) == 2 and all(isinstance(cells, numbers.Integral) for cells in wanted)
        if not whole or not (1 <= wanted[0] <= rows and 1 <= wanted[1] <= columns):
            raise S2RobotError(f"grid={grid}; the map is {rows} x {columns}: pool it to two whole numbers within that")
        return (int(wanted[0]), int(wanted[1])), map_.shape[1] * len(self.sizes), prefix.shape[1]

    def normalised_squares(self, images: UInt8[Tensor, "b 3 h w"]) -> Float32[Tensor, "b 3 s s"]:
        """The frames as the first resize gets them: square and normalised. Errors as of a call."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
            hint = "; permute(0, 3, 1, 2) first" if images.ndim == 4 and images.shape[-1] == 3 else ""
            raise S2RobotError(
                f"images are {images.dtype} of shape {tuple(images.shape)}; "
                f"expected RGB frames as uint8 (b, 3, h, w), at least one{hint}"
            )
        height, width = images.shape[-2:]
        self.check_frame(height, width)
        if self.square == "crop":
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            images = images[..., top : top + side, left : left + side]
        # Planes, not interleaved pixels as cameras deliver them: resizing takes three quarters of the time.
        frames = images.to(self.device).contiguous().float() * self._scale + self._shift
        if height == width or self.square == "crop":
            return frames
        spare_h, spare_w = max(0, width - height), max(0, height - width)
        return F.pad(frames, (spare_w // 2, spare_w - spare_w // 2, spare_h // 2, spare_h - spare_h // 2))


def _check_patch(backbone: Backbone, sizes: tuple[int, ...], splits: tuple[int, ...]) -> None:
    for size, count in zip(sizes, splits, strict=True):
        side = size // count
        if side % backbone.patch:
            low = max(side // backbone.patch, 1) * backbone.patch * count
            raise S2RobotError(
                f"size {size} gives tiles of {side} px, not a multiple of {backbone.name}'s patch of "
                f"{backbone.patch} px; {low} and {low + backbone.patch * count} are"
            )
