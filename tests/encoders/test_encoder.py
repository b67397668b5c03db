"""MultiscaleEncoder: preprocessing, frozen proof, independence of the batch, cost, bad input."""

from __future__ import annotations

import json

import pytest
import torch
from encoder_models import MEAN, STD, frames, tiny_backbone, tiny_model

from s2robot.encoders import Backbone, BlindEncoder, Encoder, MultiscaleEncoder, multiscale_forward
from s2robot.errors import S2RobotError


def normalised(images: torch.Tensor) -> torch.Tensor:
    """As every published processor does it."""
    return (images.float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def encoder(sizes: tuple[int, ...] = (32, 64), model: str = "vit1", **options: object) -> MultiscaleEncoder:
    return MultiscaleEncoder(tiny_backbone(model), sizes, **({"dtype": "float32", "device": "cpu"} | options))


def test_features_are_the_s2_forward_on_normalised_frames():
    images = frames(3, 64)
    features = encoder()(images)
    expected = multiscale_forward(tiny_model("vit1"), normalised(images), (32, 64), num_prefix_tokens=1)
    assert features.grid == (4, 4)
    torch.testing.assert_close(torch.cat([features.prefix, features.tokens], 1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("model", "prefix"), [("vit0", 0), ("vit5", 5), ("convnext", 0)])
def test_prefix_tokens_are_kept_apart_from_the_grid(model, prefix):
    features = encoder(model=model)(frames(2, 64))
    assert features.tokens.shape == (2, 16, 32)
    assert features.prefix.shape == (2, prefix, 32)


def test_a_frame_of_the_size_of_the_scale_reaches_the_model_untouched():
    seen = []
    spy = Backbone(lambda x: seen.append(x) or x, "spy", mean=MEAN, std=STD)
    images = frames(1, 32)
    MultiscaleEncoder(spy, (32,), dtype="float32", device="cpu")(images)
    torch.testing.assert_close(seen[-1], normalised(images), atol=1e-6, rtol=0)


def test_crop_takes_the_central_square():
    images = frames(2, 64, 90)
    assert torch.equal(encoder()(images).tokens, encoder()(images[..., 13:77]).tokens)
    tall = images.transpose(2, 3)
    assert torch.equal(encoder()(tall).tokens, encoder()(tall[:, :, 13:77]).tokens)


def test_pad_centres_the_frame_on_the_mean_colour_of_the_backbone():
    seen = []
    spy = Backbone(lambda x: seen.append(x) or x, "spy", mean=MEAN, std=STD)
    images = frames(1, 40, 64)
    MultiscaleEncoder(spy, (64,), square="pad", dtype="float32", device="cpu")(images)
    assert seen[-1][..., :12, :].abs().max() == 0
    assert seen[-1][..., 52:, :].abs().max() == 0
    torch.testing.assert_close(seen[-1][..., 12:52, :], normalised(images), atol=1e-6, rtol=0)


def test_one_large_scale_pools_to_the_grid_asked_for():
    images = frames(2, 72)
    full = encoder((72,), tile=72)(images).tokens
    pooled = encoder((72,), tile=72, grid=(3, 3))(images)
    assert pooled.grid == (3, 3)
    expected = full.reshape(2, 3, 3, 3, 3, 16).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(pooled.tokens, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", ["vit1", "convnext"])
@pytest.mark.parametrize("tile", [32, 64])
def test_the_grid_may_be_that_of_any_size(model, tile):
    images = frames(2, 64)
    made = encoder(model=model, tile=tile, resize_output_to_idx=1)
    options = {"num_prefix_tokens": made.num_prefix_tokens, "resize_output_to_idx": 1}
    expected = multiscale_forward(tiny_model(model), normalised(images), (32, 64), tile, **options)
    features = made(images)
    assert features.grid == (8, 8)
    assert made.cost().tokens == 64 + made.num_prefix_tokens
    torch.testing.assert_close(torch.cat([features.prefix, features.tokens], 1), expected, atol=1e-5, rtol=0)
    pooled = encoder(model=model, tile=tile, resize_output_to_idx=1, grid=(3, 3))(images)
    assert pooled.tokens.shape == (2, 9, 32)


def test_memory_layout_of_the_frames_does_not_matter():
    images = frames(2, 80)
    assert torch.equal(encoder()(images).tokens, encoder()(images.contiguous(memory_format=torch.channels_last)).tokens)


def test_nothing_can_train_the_encoder():
    backbone = Backbone(tiny_model("vit1").requires_grad_(True).train(), "vit1", patch=8, num_prefix_tokens=1)
    frozen = MultiscaleEncoder(backbone, (32, 64), dtype="float32", device="cpu")
    before = frozen.weights_sha256()
    assert not any(tensor.requires_grad for tensor in [*frozen.parameters(), *frozen.buffers()])
    torch.nn.ModuleList([frozen, backbone]).train()
    assert not any(module.training for module in frozen.modules())
    head = torch.nn.Linear(32, 1)
    optimiser = torch.optim.SGD([*head.parameters(), *frozen.parameters()], lr=1.0, weight_decay=0.1)
    features = frozen(frames(2, 64)).tokens
    assert not features.requires_grad
    torch.autograd.backward(head(features).sum())
    optimiser.step()
    assert frozen.weights_sha256() == before
    backbone.model.requires_grad_(True)  # whoever thaws it by hand still gets features without a gradient
    assert not frozen(frames(2, 64)).tokens.requires_grad


def test_dropout_and_running_statistics_stay_off():
    noisy = torch.nn.Sequential(tiny_model("convnext"), torch.nn.BatchNorm2d(16), torch.nn.Dropout(0.5)).train()
    frozen = MultiscaleEncoder(Backbone(noisy, "noisy", patch=8), (32,), dtype="float32", device="cpu").train()
    before = frozen.weights_sha256()
    assert torch.equal(frozen(frames(2, 32)).tokens, frozen(frames(2, 32)).tokens)
    assert frozen.weights_sha256() == before


def test_the_weight_hash_sees_one_changed_bit():
    one, other = encoder(), encoder()
    assert one.weights_sha256() == other.weights_sha256()
    other.backbone.model.norm.bias[3] += 1e-6
    assert one.weights_sha256() != other.weights_sha256()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_a_frame_encodes_to_the_same_bits_at_any_position_beside_any_others(dtype, count):
    one = encoder(dtype=dtype)
    frame = frames(1, 64, seed=1)
    alone = one.encode_rows(frame, rows=4)
    for position in range(count):
        batch = frames(count, 64, seed=2 + position)
        batch[position] = frame[0]
        features = one.encode_rows(batch, rows=4)
        assert features.tokens.shape == (count, 16, 32)
        assert torch.equal(features.tokens[position], alone.tokens[0])
        assert torch.equal(features.prefix[position], alone.prefix[0])


def test_every_batch_of_encode_rows_has_the_same_number_of_tiles():
    seen, model = [], tiny_model("vit0")
    spy = Backbone(lambda x: seen.append(len(x)) or model(x), "spy", patch=8)
    one = MultiscaleEncoder(spy, (32, 64), dtype="float32", device="cpu")
    seen.clear()
    one.encode_rows(frames(11, 64), rows=4)
    assert seen == [20, 20, 20]


def test_bfloat16_features_agree_with_float32():
    images = frames(4, 64)
    exact, short = encoder()(images).tokens, encoder(dtype="bfloat16")(images).tokens
    assert short.dtype == torch.float32
    assert not torch.equal(exact, short)
    assert torch.cosine_similarity(exact.flatten(), short.flatten(), dim=0) > 0.9995


def test_large_tiles_keep_the_attention_that_saves_memory():
    chosen: list[bool] = []

    class Model(torch.nn.Module):
        def choose_attention(self, plain: bool) -> None:
            chosen.append(plain)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, :, ::16, ::16]

    for side, dtype in ((256, "bfloat16"), (272, "bfloat16"), (256, "float32")):
        MultiscaleEncoder(Backbone(Model(), "grid", patch=16), (side,), dtype=dtype, device="cpu")
    assert chosen == [True, False, False]


def test_auto_dtype_is_bfloat16_exactly_where_the_processor_has_it(monkeypatch):
    for native, expected in [(True, "bfloat16"), (False, "float32")]:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert encoder(dtype="auto").spec()["dtype"] == expected


def test_the_fingerprint_changes_with_everything_that_changes_the_features():
    base = encoder().fingerprint
    other_weights = tiny_backbone()
    other_weights.model.norm.bias[0] += 1
    variants = [
        encoder((32,)),
        encoder((32, 64), tile=64),
        encoder(grid=(2, 2)),
        encoder(resize_output_to_idx=1),
        encoder(resize_output_to_idx=1, grid=(4, 4)),
        encoder(square="pad"),
        encoder(dtype="bfloat16"),
        encoder(reference=True),
        encoder(model="vit0"),
        MultiscaleEncoder(tiny_backbone(mean=(0.5, 0.5, 0.5)), (32, 64), dtype="float32", device="cpu"),
        MultiscaleEncoder(tiny_backbone(architecture={"heads": 4}), (32, 64), dtype="float32", device="cpu"),
        MultiscaleEncoder(other_weights, (32, 64), dtype="float32", device="cpu"),
    ]
    assert encoder().fingerprint == base
    assert len({base, *(variant.fingerprint for variant in variants)}) == len(variants) + 1


def test_the_spec_is_json_and_names_sizes_weights_and_shape():
    spec = json.loads(json.dumps(encoder().spec()))
    assert (spec["sizes"], spec["grid"], spec["channels"], spec["tile"]) == ([32, 64], [4, 4], 32, 32)
    assert spec["weights_sha256"] == encoder().weights_sha256()


def test_cost_counts_tiles_tokens_parameters_and_multiplications():
    one, two = encoder((32,)).cost(), encoder((32, 64)).cost(480, 640)
    assert (one.tiles, two.tiles, two.tokens) == (1, 5, 17)
    assert one.params == sum(p.numel() for p in tiny_model("vit1").parameters())
    places = 16 * 2 * 16  # position embeddings are made once per batch, the rest once per tile
    tile = 16 * 192 * 16 + 17 * 16 * 48 + 2 * 17 * 17 * 16 + 2 * 17 * 16 * 16
    assert one.gmac == pytest.approx((places + tile) / 1e9)
    assert two.gmac == pytest.approx((places + 5 * tile) / 1e9)


def test_blind_is_an_encoder_without_tokens_cost_or_weights():
    blind = BlindEncoder(device="cpu")
    assert isinstance(blind, Encoder)
    assert isinstance(encoder(), Encoder)
    assert blind.encode_rows(frames(3, 16)).tokens.shape == (3, 0, 0)
    assert blind.cost().gmac == 0
    assert blind.spec()["sizes"] == []


BAD_FRAMES = {
    "float": (frames(1, 64).float(), "torch.float32 .* expected RGB frames as uint8"),
    "one frame": (frames(1, 64)[0], r"shape \(3, 64, 64\)"),
    "channels last": (frames(1, 64).permute(0, 2, 3, 1), r"permute\(0, 3, 1, 2\) first"),
    "grey": (frames(1, 64)[:, :1], r"shape \(1, 1, 64, 64\)"),
    "none": (frames(1, 64)[:0], "at least one"),
    "small": (frames(1, 48), "48 x 48 px are smaller than the largest scale, 64 px: re-render"),
    "narrow": (frames(1, 100, 63), "100 x 63 px are smaller"),
}


@pytest.mark.parametrize("bad", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_bad_frames_are_one_clear_line(bad):
    images, message = bad
    with pytest.raises(S2RobotError, match=message) as raised:
        encoder()(images)
    assert "\n" not in str(raised.value)


BAD_SETTINGS = {
    "size against patch": ({"sizes": (36,)}, "36 gives tiles of 36 px, .* patch of 8 px; 32 and 40 are"),
    "tile against patch": ({"sizes": (32, 72), "tile": 36}, "72 gives tiles of 36 px, .*; 64 and 80 are"),
    "unordered": ({"sizes": (64, 32)}, "ascending"),
    "grid too fine": ({"grid": (9, 9)}, "the map is 4 x 4"),
    "index of no size": ({"resize_output_to_idx": -1}, r"idx=-1; the indices of sizes=\[32, 64\] are 0 to 1"),
    "grid of one number": ({"grid": (2,)}, "two whole numbers"),
    "grid with fractions": ({"grid": (3.5, 3.5)}, r"grid=\(3.5, 3.5\); the map is 4 x 4"),
    "square": ({"square": "stretch"}, "square='stretch'; allowed: crop, pad"),
    "dtype": ({"dtype": "float16"}, "dtype='float16'; allowed: auto, float32, bfloat16"),
    "device": ({"device": "tpu"}, "device='tpu'; allowed: auto, cpu, cuda"),
}


@pytest.mark.parametrize("bad", BAD_SETTINGS.values(), ids=BAD_SETTINGS.keys())
def test_settings_that_do_not_fit_are_one_clear_line(bad):
    options, message = bad
    with pytest.raises(S2RobotError, match=message) as raised:
        encoder(**options)
    assert "\n" not in str(raised.value)


def test_a_backbone_whose_prefix_tokens_are_not_said_is_found_at_once():
    with pytest.raises(S2RobotError, match="set num_prefix_tokens"):
        MultiscaleEncoder(tiny_backbone("vit1", num_prefix_tokens=0), (32,), dtype="float32")


def test_cuda_where_there_is_none_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(S2RobotError, match="device='cuda', but torch sees no GPU"):
        encoder(device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_features_on_the_gpu_agree_with_the_cpu():
    images = frames(2, 64)
    on_gpu = encoder(device="cuda")(images).tokens.cpu()
    torch.testing.assert_close(on_gpu, encoder()(images).tokens, atol=1e-3, rtol=0)
