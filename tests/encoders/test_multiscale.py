"""The S2 forward: against the paper's algorithm written out, and against the public reference package."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from encoder_models import float_images, tiny_model
from golden_s2 import CASES, GOLDEN, case_name
from hypothesis import given, settings
from hypothesis import strategies as st

from s2robot.encoders.multiscale import merge, multiscale_forward, resize, split, tile_counts
from s2robot.errors import S2RobotError


def cubic(t: float, a: float = -0.75) -> float:
    """Keys' cubic convolution kernel."""
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def bicubic_matrix(old: int, new: int) -> np.ndarray:
    """Rows of weights: output pixel i looks at the four input pixels around (i + 0.5) * old / new - 0.5."""
    matrix = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
            matrix[i, min(max(j, 0), old - 1)] += cubic(centre - j)
    return matrix


def s2_by_hand(model: Callable, image: np.ndarray, sizes: tuple[int, ...], tile: int, prefix: int) -> np.ndarray:
    """Section 3.1 for one image, in float64 and one tile at a time: (tokens, channels), prefix tokens first."""
    maps, prefixes = [], []
    for size in sizes:
        weights = bicubic_matrix(image.shape[-1], size)
        scaled = weights @ image @ weights.T
        k = math.ceil(size / tile)
        side = size // k
        rows, seen = [], []
        for row in range(k):
            cells = []
            for column in range(k):
                piece = scaled[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
                out = model(torch.from_numpy(piece)[None])[0].numpy()
                if out.ndim == 2:
                    seen.append(out[:prefix])
                    n = math.isqrt(len(out) - prefix)
                    out = out[prefix:].reshape(n, n, -1).transpose(2, 0, 1)
                cells.append(out)
            rows.append(np.concatenate(cells, axis=2))
        maps.append(np.concatenate(rows, axis=1))
        prefixes.append(np.mean(seen, axis=0) if prefix else np.empty((0, maps[-1].shape[0])))
    grid = maps[0].shape[-1]
    pooled = []
    for map_ in maps:
        edges = [(i * map_.shape[-1] // grid, -(-(i + 1) * map_.shape[-1] // grid)) for i in range(grid)]
        means = [[map_[:, a:b, c:d].mean((1, 2)) for c, d in edges] for a, b in edges]
        pooled.append(np.array(means).reshape(grid * grid, -1))
    return np.concatenate([np.concatenate(prefixes, axis=1), np.concatenate(pooled, axis=1)])


@pytest.mark.parametrize(
    ("name", "side", "sizes", "tile"),
    [
        ("vit0", 64, (32, 64), 32),
        ("vit1", 64, (32, 64, 96), 32),
        ("vit1", 40, (32, 48), 32),
        ("vit5", 64, (32, 64), 32),
        ("vit5", 64, (24, 64), 32),
        ("convnext", 64, (32, 64), 32),
        ("convnext", 48, (64, 128), 32),
    ],
)
def test_reference_mode_is_the_algorithm_of_the_paper(name, side, sizes, tile):
    prefix = 0 if name == "convnext" else int(name[3:])
    images = float_images(2, side)
    ours = multiscale_forward(tiny_model(name), images, sizes, tile, prefix, reference=True)
    by_hand = [s2_by_hand(tiny_model(name).double(), image, sizes, tile, prefix) for image in images.double().numpy()]
    np.testing.assert_allclose(ours.numpy(), np.stack(by_hand), atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case_name(*case))
def test_reference_mode_equals_the_public_package(case):
    """Golden outputs of bfshi/scaling_on_scales at commit 9c008a37540e, computed by golden_s2.py."""
    name, side, sizes, tile, index = case
    layout, prefix = ("bchw", 0) if name == "convnext" else ("bnc", int(name[3:]))
    arguments = (tiny_model(name), float_images(2, side), sizes, tile, prefix, layout)
    ours = multiscale_forward(*arguments, reference=True, resize_output_to_idx=index)
    with np.load(GOLDEN, allow_pickle=False) as golden:
        np.testing.assert_allclose(ours.numpy(), golden[case_name(*case)], atol=1e-5, rtol=0)


def test_in_the_grid_of_the_finer_size_nothing_is_averaged_and_coarse_cells_are_repeated():
    arguments = (tiny_model("convnext"), float_images(2, 64), (32, 64))
    fine = multiscale_forward(*arguments, output="bchw", resize_output_to_idx=1)
    coarse = multiscale_forward(*arguments, output="bchw")
    alone = multiscale_forward(*arguments[:2], (64,), 32, output="bchw")
    assert torch.equal(fine[:, len(alone[0]) :], alone)
    assert torch.equal(
        fine[:, : len(alone[0])], coarse[:, : len(alone[0])].repeat_interleave(2, 2).repeat_interleave(2, 3)
    )
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(fine, 2), coarse, atol=1e-6, rtol=0)


def test_the_default_differs_from_the_published_resize_only_where_it_shrinks():
    images, model = float_images(1, 32), tiny_model("vit0")

    def gap(sizes: tuple[int, ...]) -> float:
        published = multiscale_forward(model, images, sizes, reference=True)
        return (multiscale_forward(model, images, sizes) - published).abs().max().item()

    assert gap((32, 64)) == 0
    assert gap((16, 32)) > 0.01


def test_shrinking_a_checkerboard_gives_grey_by_default_and_moire_as_published():
    board = torch.zeros(1, 3, 64, 64)
    board[..., ::2, ::2] = board[..., 1::2, 1::2] = 1
    assert resize(board, 24)[..., 4:-4, 4:-4].std() < 0.01
    assert resize(board, 24, antialias=False)[..., 4:-4, 4:-4].std() > 0.1


def test_an_image_that_has_the_size_already_is_not_resized():
    images = float_images(1, 32)
    assert resize(images, 32) is images


@settings(max_examples=40, deadline=None)
@given(b=st.integers(1, 3), c=st.integers(1, 3), k=st.integers(1, 4), side=st.integers(1, 5))
def test_merge_is_the_inverse_of_split(b, c, k, side):
    images = torch.arange(b * c * (k * side) ** 2).reshape(b, c, k * side, k * side)
    tiles = split(images, k)
    assert tiles.shape == (k * k * b, c, side, side)
    assert torch.equal(merge(tiles, k), images)


def test_tiles_are_stacked_as_the_worked_example_says():
    images = torch.tensor([[[[1, 2], [3, 4]]], [[[5, 6], [7, 8]]]])
    assert split(images, 2).flatten().tolist() == [1, 5, 2, 6, 3, 7, 4, 8]


@pytest.mark.parametrize(
    ("sizes", "tile", "batches"),
    [((32, 64), None, [10]), ((32, 64, 96), 32, [28]), ((32, 48), 32, [2, 8]), ((64, 128), 32, [40])],
)
def test_tiles_of_equal_side_go_through_the_model_in_one_batch(sizes, tile, batches):
    seen, model = [], tiny_model("vit1")

    def counting(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return model(x)

    multiscale_forward(counting, float_images(2, 64), sizes, tile, 1)
    assert sorted(seen) == batches


@pytest.mark.parametrize("name", ["vit1", "convnext"])
def test_channels_grow_with_the_scales_and_the_grid_does_not(name):
    prefix = 0 if name == "convnext" else 1
    out = multiscale_forward(tiny_model(name), float_images(2, 64), (32, 64, 96), num_prefix_tokens=prefix)
    assert out.shape == (2, prefix + 16, 48)


def test_tokens_and_map_are_the_same_numbers():
    images, model = float_images(2, 64), tiny_model("convnext")
    map_ = multiscale_forward(model, images, (32, 64), output="bchw")
    assert map_.shape == (2, 32, 4, 4)
    assert torch.equal(multiscale_forward(model, images, (32, 64)), map_.flatten(2).transpose(1, 2))


BAD = {
    "uint8 images": ({"images": torch.zeros(1, 3, 64, 64, dtype=torch.uint8)}, "torch.uint8 .* normalised float"),
    "three dimensions": ({"images": torch.zeros(3, 64, 64)}, r"shape \(3, 64, 64\)"),
    "not square": ({"images": torch.zeros(1, 3, 48, 64)}, "48 x 64 px, expected squares"),
    "no sizes": ({"sizes": ()}, r"sizes=\[\]; give at least one"),
    "sizes descend": ({"sizes": (64, 32)}, r"sizes=\[64, 32\]; .* ascending"),
    "a size twice": ({"sizes": (32, 32)}, "each once"),
    "size does not divide": ({"sizes": (32, 80), "tile": 32}, "80 does not divide into 3 x 3 tiles .*use 64"),
    "one size": ({"sizes": 32}, r"sizes=32; give a list of whole sides in px, e.g. \[112"),
    "sizes of words": ({"sizes": ("a", 64)}, r"sizes=\('a', 64\); give a list of whole sides"),
    "a word": ({"sizes": "64"}, r"sizes='64'; give a list of whole sides"),
    "sizes with fractions": ({"sizes": (32.0, 64.0)}, r"sizes=\(32.0, 64.0\); give a list of whole sides"),
    "tile of nothing": ({"tile": 0}, "tile=0"),
    "index of no size": ({"resize_output_to_idx": 2}, r"idx=2; the indices of sizes=\[32, 64\] are 0 to 1"),
    "layout": ({"output": "bhwc"}, "output='bhwc'; allowed: 'bnc'"),
    "prefix in a map": ({"output": "bchw", "num_prefix_tokens": 1}, "no place for 1 prefix"),
    "forgotten prefix": ({"num_prefix_tokens": 0}, "17 tokens less 0 prefix tokens are 17, not a square"),
    "not a tensor": ({"model": lambda x: None}, "the model gave NoneType for 5 tiles"),
    "pooled output": ({"model": lambda x: x.mean((2, 3))}, r"the model gave shape \(1, 3\)"),
    "pooled batch": ({"model": lambda x: x.mean(0, keepdim=True)}, "for 5 tiles; it must return"),
    "map with prefix": ({"model": lambda x: x}, "a map .* without prefix tokens"),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_clear_line(change):
    options, message = change
    good = {"model": tiny_model("vit1"), "images": float_images(1, 64), "sizes": (32, 64), "num_prefix_tokens": 1}
    with pytest.raises(S2RobotError, match=message) as raised:
        multiscale_forward(**(good | options))
    assert "\n" not in str(raised.value)


def test_a_smaller_tile_than_asked_for_is_cut_where_the_size_is_no_multiple():
    assert tile_counts((112, 192, 224), 112) == [1, 2, 2]
