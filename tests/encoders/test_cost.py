"""Counted compute: hand-written modules by arithmetic, known models by published figures, matched sizes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import transformers
from encoder_models import tiny_backbone
from torch import Tensor, nn

from s2robot.encoders import Backbone, BlindEncoder, MultiscaleEncoder, count_gmac, match, match_sizes, matched
from s2robot.encoders.multiscale import multiscale_forward
from s2robot.errors import MismatchError, S2RobotError


class Everything(nn.Module):
    """A convolution, an einsum, a matmul and an attention, each of a size that can be told from the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)
        self.weight = nn.Parameter(torch.zeros(8, 10))

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images).flatten(2).transpose(1, 2)  # (b, 64, 8)
        x = torch.einsum("bnc,cd->bnd", x, self.weight)  # (b, 64, 10)
        x = F.scaled_dot_product_attention(x, x, x)
        return x.transpose(1, 2) @ x


def test_convolution_einsum_matmul_and_attention_add_up():
    macs = 64 * 3 * 16 * 8 + 64 * 8 * 10 + 2 * 64 * 64 * 10 + 10 * 64 * 10
    assert count_gmac(Everything(), torch.zeros(1, 3, 32, 32)) * 1e9 == pytest.approx(macs)
    assert count_gmac(Everything(), torch.zeros(5, 3, 32, 32)) * 1e9 == pytest.approx(5 * macs)


D, N, WIDE = 64, 10, 128
FUSED = {
    "transformer layer": (
        nn.TransformerEncoderLayer(D, 4, WIDE, batch_first=True),
        (1, N, D),
        N * (4 * D * D + 2 * D * WIDE) + 2 * N * N * D,
    ),
    "recurrent layer": (nn.LSTM(8, 16), (5, 1, 8), 5 * (8 * 64 + 16 * 64)),
    "grouped convolution": (nn.Conv2d(4, 8, 3, 2, 1, groups=4), (1, 4, 8, 8), 4 * 4 * 8 * 9),
    "transposed convolution": (nn.ConvTranspose2d(3, 5, 4, 2), (1, 3, 8, 8), 64 * 3 * 5 * 16),
    "matrix times vector": (lambda x: x @ x[0], (30, 30), 900),
    "branch on a value": (lambda x: x @ x if x.sum().item() == 0 else x, (10, 10), 1000),
}


@pytest.mark.parametrize(("module", "shape", "macs"), FUSED.values(), ids=FUSED.keys())
def test_kernels_that_counters_miss_are_counted(module, shape, macs):
    module = module.eval() if isinstance(module, nn.Module) else module
    assert count_gmac(module, torch.zeros(shape)) * 1e9 == pytest.approx(macs)


def test_counting_leaves_the_kernels_as_they_were():
    count_gmac(nn.Linear(2, 2), torch.zeros(1, 2))
    assert torch.backends.mkldnn.enabled == torch.backends.mkldnn.is_available()
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.fixture(scope="module")
def vit_base() -> nn.Module:
    return transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False).eval()


def test_vit_base_at_224_has_its_published_cost(vit_base):
    assert count_gmac(vit_base, torch.zeros(1, 3, 224, 224)) == pytest.approx(17.56, rel=0.01)


def test_vit_base_with_two_scales_has_five_times_that(vit_base):
    def s2(images: Tensor) -> Tensor:
        return multiscale_forward(lambda x: vit_base(x).last_hidden_state, images, (224, 448), num_prefix_tokens=1)

    assert count_gmac(s2, torch.zeros(1, 3, 448, 448)) == pytest.approx(87.8, rel=0.01)


def at(backbone: Backbone, *sizes: int) -> MultiscaleEncoder:
    return MultiscaleEncoder(backbone, sizes, dtype="float32", device="cpu")


class Wide(nn.Module):
    """`factor` times the cost of one convolution of 8 px patches, per pixel."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 10, 8, 8) for _ in range(int(10 * factor)))

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([conv(images) for conv in self.convs]).mean(0)


def wide(factor: float, image_size: int = 32) -> Backbone:
    return Backbone(Wide(factor), f"wide{factor}", patch=8, image_size=image_size)


@pytest.mark.parametrize(("factor", "expected"), [(5, (32, 64)), (14, (32, 64, 96))])
def test_the_multiple_of_the_trained_tile_that_costs_as_much_is_found(factor, expected):
    target = at(wide(factor), 32)
    sizes = match_sizes(target, wide(1))
    assert sizes == expected
    assert matched(at(wide(1), *sizes), target) == pytest.approx(1)


def test_the_tile_moves_only_where_the_trained_one_does_not_fit():
    # 14 tiles of 16 patches are 224 against 220.
    assert match_sizes(at(wide(5.5), 16), wide(0.1)) == (32, 64, 96)
    # 30 tiles of 4 patches are the 120 that no multiples of 32 px come near.
    assert match_sizes(at(wide(3), 16), wide(0.1), tolerance=0.01) == (16, 32, 48, 64)


def test_one_scale_is_no_match_though_it_cost_as_much():
    with pytest.raises(MismatchError, match=r"nearest is \[16, 32\] at 1.25 times"):
        match_sizes(at(wide(1), 32), wide(1))


def test_no_encoder_of_five_scales_is_proposed():
    """Five multiples of 16 px, 55 tiles of 4 patches, would be exact."""
    with pytest.raises(MismatchError, match=r"nearest is \[32, 64, 96\] at 1.02"):
        match_sizes(at(wide(5.5), 16), wide(0.1), tolerance=0.01)


@pytest.mark.parametrize("gmac", [0.5e-3, 1.7e-3, 6e-3, 20e-3])
def test_a_few_counts_find_what_counting_every_side_finds(monkeypatch, gmac):
    backbone = tiny_backbone("vit5", image_size=64)
    sides = range(32, 129, 8)
    cost = {side: count_gmac(backbone, torch.zeros(1, 3, side, side)) for side in sides}
    tiles = {k: sum(i * i for i in range(1, k + 1)) for k in (2, 3, 4)}
    ratios = [(tiles[k] * cost[side] / gmac, side, k) for side in sides for k in tiles]
    ratio, side, k = min(ratios, key=lambda candidate: abs(math.log(candidate[0])))
    counted = []
    monkeypatch.setattr(match, "count_gmac", lambda net, x: counted.append(x.shape[-1]) or cost[x.shape[-1]])
    assert match._nearest(backbone, sides, gmac) == (pytest.approx(ratio), tuple(side * i for i in range(1, k + 1)))
    assert len(counted) <= 6


def test_no_match_within_the_tolerance_is_refused_with_the_nearest():
    with pytest.raises(
        MismatchError, match=r"no sizes of wide1 .* within 0%: nearest is \[16, 32, 48\] at 0\.95 times"
    ):
        match_sizes(at(wide(3.7), 32), wide(1), tolerance=0.0001)


def test_matching_against_nothing_is_refused():
    with pytest.raises(S2RobotError, match=r"to blind \(0 GMAC\)"):
        match_sizes(BlindEncoder(device="cpu"), tiny_backbone())
    with pytest.raises(S2RobotError, match="trained at None px"):
        match_sizes(at(wide(1), 32), tiny_backbone(image_size=None))


@pytest.mark.parametrize(("factor", "fits"), [(1, True), (1.1, False), (0.9, False), (1.5, False)])
def test_a_comparison_beyond_the_tolerance_is_refused_either_way(factor, fits):
    a, b = at(wide(factor), 32), at(wide(1), 32)
    if fits:
        assert matched(a, b) == pytest.approx(1)
        return
    with pytest.raises(MismatchError, match=r"costs .* GMAC and wide1 at \[32\] .*: not matched within 5%"):
        matched(a, b)
    with pytest.raises(MismatchError, match="not matched within 5%"):
        matched(b, a)


def test_blind_matches_nothing():
    with pytest.raises(MismatchError, match="blind at"):
        matched(BlindEncoder(device="cpu"), at(wide(1), 32))
