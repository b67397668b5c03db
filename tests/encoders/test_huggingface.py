"""Published models from a folder: the same features as upstream on the raw frame, and clear lines for bad folders."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from encoder_models import HUGGINGFACE, IMAGENET, PICTURE, RESNET, SMALL, TEXT, frames
from safetensors.torch import load_file, save_file

from s2robot.encoders import MultiscaleEncoder, count_gmac, huggingface, huggingface_backbone
from s2robot.encoders.card import Card
from s2robot.encoders.interface import weights_identity
from s2robot.errors import S2RobotError


def upstream(folder: Path, model: torch.nn.Module, images: torch.Tensor, **options: object) -> torch.Tensor:
    """The raw frames through the publisher's image processor and vision tower: the last hidden state."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    if images.shape[-1] != 32:
        processor.size = processor.crop_size = {"height": images.shape[-2], "width": images.shape[-1]}
    pixels = processor(images=list(images.permute(0, 2, 3, 1).numpy()), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return getattr(model, "vision_model", model)(pixel_values=pixels, **options).last_hidden_state


def flat(out: torch.Tensor, prefix: int) -> torch.Tensor:
    """Upstream's spatial tokens (b, n, c)."""
    return out.flatten(2).transpose(1, 2) if out.ndim == 4 else out[:, prefix:]


def options_of(name: str) -> dict[str, object]:
    """MAE drops and shuffles patches unless told the order to keep them in."""
    return {"noise": torch.arange(16.0).expand(2, -1)} if name == "vit_mae" else {}


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_a_folder_gives_the_features_of_upstream_on_the_raw_frame(name, model_folder):
    folder, model = model_folder(name)
    patch, prefix = HUGGINGFACE[name].patch, HUGGINGFACE[name].prefix
    if name == "vit_mae":
        model.config.mask_ratio = 0.0
    backbone = huggingface_backbone(str(folder))
    assert (backbone.patch, backbone.num_prefix_tokens, backbone.image_size) == (patch, prefix, HUGGINGFACE[name].side)
    images = frames(2, 32)
    features = MultiscaleEncoder(backbone, (32,), dtype="float32", device="cpu")(images)
    expected = upstream(folder, model, images, **options_of(name))
    torch.testing.assert_close(features.tokens, flat(expected, prefix), atol=1e-5, rtol=1e-5)
    assert features.prefix.shape[1] == prefix
    if prefix:
        torch.testing.assert_close(features.prefix, expected[:, :prefix], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "prepares",
    [{"do_rescale": False}, {"rescale_factor": 1 / 127.5}, {"do_rescale": False, "do_normalize": False}],
    ids=["unscaled", "to two", "as they are"],
)
def test_pixels_are_scaled_as_the_publisher_does(prepares, model_folder, tmp_path):
    folder, model = model_folder("vit")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    settings = tmp_path / "preprocessor_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | prepares))
    images = frames(2, 32)
    found = MultiscaleEncoder(huggingface_backbone(str(tmp_path)), (32,), dtype="float32", device="cpu")(images)
    torch.testing.assert_close(found.tokens, upstream(tmp_path, model, images)[:, 1:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("vit", lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, **PICTURE))),
        ("vit_mae", lambda: transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**SMALL, **PICTURE))),
        ("resnet", lambda: transformers.ResNetForImageClassification(transformers.ResNetConfig(**RESNET))),
    ],
)
def test_weights_that_the_hub_serves_with_heads_and_decoders_load(name, whole, model_folder, tmp_path):
    shutil.copytree(model_folder(name)[0], tmp_path, dirs_exist_ok=True)
    torch.manual_seed(0)
    model = whole().eval()
    model.save_pretrained(tmp_path)
    if name == "vit_mae":
        model.config.mask_ratio = 0.0
    images = frames(2, 32)
    found = MultiscaleEncoder(huggingface_backbone(str(tmp_path)), (32,), dtype="float32", device="cpu")(images)
    expected = upstream(tmp_path, model.base_model, images, **options_of(name))
    torch.testing.assert_close(found.tokens, flat(expected, HUGGINGFACE[name].prefix), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_in_bfloat16_on_the_cpu_attention_is_by_plain_products_and_the_same_but_for_rounding(name, model_folder):
    path = str(model_folder(name)[0])
    images = frames(2, 32)
    exact = MultiscaleEncoder(huggingface_backbone(path), (32,), dtype="float32", device="cpu")
    published = MultiscaleEncoder(huggingface_backbone(path), (32,), dtype="bfloat16", device="cpu", reference=True)
    tuned = MultiscaleEncoder(huggingface_backbone(path), (32,), dtype="bfloat16", device="cpu")
    attention = [e.backbone.model.model.config._attn_implementation for e in (exact, published, tuned)]
    assert attention[2] == "eager"
    assert "eager" not in attention[:2] or name in ("resnet", "convnext")
    errors = [(e(images).tokens - exact(images).tokens).abs().mean() for e in (published, tuned)]
    assert errors[1] < 1.2 * errors[0] + 1e-6
    again = MultiscaleEncoder(tuned.backbone, (32,), dtype="float32", device="cpu")
    assert again.backbone.model.model.config._attn_implementation == attention[0], "a backbone may be used again"


@pytest.mark.parametrize("name", ["vit", "dinov2_registers", "dinov3", "clip", "siglip"])
def test_position_embeddings_are_interpolated_for_another_tile(name, model_folder):
    folder, model = model_folder(name)
    prefix = HUGGINGFACE[name].prefix
    options = {} if "dino" in name else {"interpolate_pos_encoding": True}
    images = frames(2, 48)
    features = MultiscaleEncoder(huggingface_backbone(str(folder)), (48,), dtype="float32", device="cpu")(images)
    assert features.grid == (6, 6)
    expected = upstream(folder, model, images, **options)
    torch.testing.assert_close(features.tokens, flat(expected, prefix), atol=1e-5, rtol=0)


def test_counting_on_shapes_leaves_nothing_behind_in_a_model_that_remembers(model_folder):
    """transformers keeps DINOv3's patch coordinates per size; counted first, they were tensors without values."""
    encoder = MultiscaleEncoder(huggingface_backbone(str(model_folder("dinov3")[0])), (32,), dtype="float32")
    backbone = encoder.backbone
    assert count_gmac(backbone, torch.zeros(1, 3, 56, 56)) > 0
    assert type(backbone(torch.zeros(1, 3, 56, 56))) is torch.Tensor


def test_masked_autoencoders_see_every_patch_in_place_and_always_the_same(model_folder):
    one = MultiscaleEncoder(huggingface_backbone(str(model_folder("vit_mae")[0])), (32, 64), dtype="float32")
    images = frames(2, 64)
    assert torch.equal(one(images).tokens, one(images).tokens)
    images[0, :, :16, :16] = 0  # the upper left 16 of 64 px are one of 4 x 4 cells at the second scale
    change = (one(images).tokens - one(frames(2, 64)).tokens)[0].norm(dim=-1)
    assert change.argmax() == 0


def test_pickled_weights_of_older_repositories_are_read(model_folder, tmp_path):
    folder, _ = model_folder("clip")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    old, new = huggingface_backbone(str(tmp_path)), huggingface_backbone(str(folder))
    assert old.weights_sha256() == new.weights_sha256()
    assert list(old.origin["files"]) == ["pytorch_model.bin"]


def test_an_interpolated_position_embedding_is_computed_once_and_survives_a_copy(model_folder, monkeypatch):
    tokens = huggingface_backbone(str(model_folder("vit")[0])).model
    calls = []
    embeddings = type(tokens.model.embeddings)
    real = embeddings.interpolate_pos_encoding
    monkeypatch.setattr(embeddings, "interpolate_pos_encoding", lambda *args: calls.append(1) or real(*args))
    images = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        first, second = tokens(images), tokens(images[:1])
        assert len(calls) == 1
        torch.testing.assert_close(first[:1], second, atol=1e-5, rtol=0)
        half = copy.deepcopy(tokens).to(torch.bfloat16)(images.bfloat16())
    assert half.dtype == torch.bfloat16
    assert len(calls) == 2
    with torch.no_grad():
        torch.testing.assert_close(tokens(images), first, atol=0, rtol=0)


def test_half_precision_weights_load_as_float32(model_folder, tmp_path):
    folder, _ = model_folder("vit")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights = {key: value.half() for key, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    backbone = huggingface_backbone(str(tmp_path))
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


def test_random_weights_follow_the_seed_and_leave_the_global_stream_alone(model_folder):
    path = str(model_folder("vit")[0])
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    hashes = [huggingface_backbone(path, "random", seed).weights_sha256() for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    assert hashes[0] == hashes[1] != hashes[2]
    assert huggingface_backbone(path).weights_sha256() not in hashes


def test_the_fingerprint_does_not_depend_on_where_the_folder_lies(model_folder, tmp_path):
    folder, _ = model_folder("vit")
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9", "_name_or_path": "x"}))
    one, other = (MultiscaleEncoder(huggingface_backbone(str(p)), (32,), dtype="float32") for p in (folder, copy))
    assert one.fingerprint == other.fingerprint


class Evil:
    """Runs a function when it is unpickled without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("never",)


CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
CARD = {"model": {"model_type": "clip_vision_model", **SMALL, **PICTURE}, **CLIP, "licence": "MIT"}


def test_a_card_gives_the_architecture_without_files_and_the_recommended_layer_with_them(model_folder):
    folder, model = model_folder("clip")
    card = Card.parse(CARD | {"layer": -2})
    unseen = huggingface_backbone("openai/clip", "random", 0, card)
    assert (unseen.name, unseen.patch, unseen.num_prefix_tokens) == ("openai/clip-random0", 8, 1)
    images = frames(2, 32)
    backbone = huggingface_backbone(str(folder), card=card)
    features = MultiscaleEncoder(backbone, (32,), dtype="float32", device="cpu")(images)
    seen: list[torch.Tensor] = []
    hook = model.vision_model.encoder.layers[-1].register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    upstream(folder, model, images)
    hook.remove()
    torch.testing.assert_close(features.tokens, seen[0][:, 1:], atol=1e-5, rtol=0)
    assert backbone.origin["licence"] == "MIT"
    last = huggingface_backbone(str(folder), card=Card.parse(CARD))
    fingerprints = {MultiscaleEncoder(b, (32,), dtype="float32").fingerprint for b in (backbone, last)}
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": CARD["model"] | {"hidden_size": 64}},
            "holds another model than this encoder's card: hidden_size 32",
        ),
        ({"model": CARD["model"] | {"hidden_act": "gelu"}}, "hidden_act quick_gelu, not gelu"),
        ({"mean": IMAGENET["image_mean"]}, r"image_mean \[0.48145466, .*\], not \[0.485"),
        ({"std": [1, 1, 1]}, r"image_std \[0.26862954.*\], not \[1, 1, 1\]"),
        ({"depth": 3}, "card: .*'depth'; its keys are model, mean"),
    ],
)
def test_a_folder_of_another_model_than_the_card_is_refused(change, message, model_folder):
    with pytest.raises(S2RobotError, match=message):
        huggingface_backbone(str(model_folder("clip")[0]), card=Card.parse(CARD | change))


def damage(folder: Path, how: str) -> None:
    """Break a copy of a good folder in one way."""
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[-1]
    match how:
        case "no config":
            (folder / "config.json").unlink()
        case "no weights":
            (folder / "model.safetensors").unlink()
        case "pickle that runs code":
            (folder / "model.safetensors").unlink()
            (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"layernorm.weight": Evil()}))
        case "NaN":
            weights[name][0] = torch.nan
            save_file(weights, folder / "model.safetensors", {"format": "pt"})
        case "no processor":
            (folder / "preprocessor_config.json").unlink()
        case "no mean":
            (folder / "preprocessor_config.json").write_text('{"size": 224}')
        case "truncated":
            data = (folder / "model.safetensors").read_bytes()
            (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
        case "empty":
            (folder / "model.safetensors").unlink()
            (folder / "pytorch_model.bin").write_bytes(b"")
        case "tensors of a deeper model":
            extra = {key.replace("layer.1.", "layer.2."): value.clone() for key, value in weights.items()}
            save_file(weights | extra, folder / "model.safetensors", {"format": "pt"})
        case "no such width":
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"hidden_size": "32"}))
        case "no plain model":
            (folder / "config.json").write_text('{"model_type": "superpoint"}')
        case "processor is a list":
            (folder / "preprocessor_config.json").write_text("[]")
        case "mean of words":
            (folder / "preprocessor_config.json").write_text('{"image_mean": "red", "image_std": [1, 1, 1]}')
        case "missing tensor":
            del weights[name]
            save_file(weights, folder / "model.safetensors", {"format": "pt"})
        case "wrong shape":
            save_file(weights | {name: torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"})
        case "unknown model":
            (folder / "config.json").write_text('{"model_type": "no-such-model"}')
        case "bad json":
            (folder / "config.json").write_text("{")


BAD_FOLDERS = {
    "no config": r"lacks config.json; a model folder holds config.json, model.safetensors",
    "no weights": r"lacks model.safetensors or pytorch_model.bin; a model folder holds",
    "no processor": r'lacks preprocessor_config.json; write one with "image_mean"',
    "no mean": r'holds no "image_mean"',
    "truncated": "the weights do not load",
    "pickle that runs code": "the weights do not load: it holds more than tensors, or is damaged; what could run",
    "empty": "the weights do not load",
    "tensors of a deeper model": r"the weights have what the architecture does not: layers.2.*\(16 tensors\)",
    "no such width": "does not know the model of .*hidden_size",
    "no plain model": "is a 'superpoint', of which transformers has no plain model",
    "processor is a list": "preprocessor_config.json is no mapping",
    "mean of words": 'holds no "image_mean"',
    "missing tensor": r"the weights lack layernorm.weight \(1 tensors\)",
    "wrong shape": r"have other shapes than the architecture: layernorm.weight is \(3,\), not \(32,\)",
    "NaN": r"are NaN or infinite in layernorm.weight \(1 tensors\)",
    "unknown model": "does not know the model of",
    "bad json": "not valid JSON",
}


@pytest.mark.parametrize(("how", "message"), BAD_FOLDERS.items(), ids=BAD_FOLDERS.keys())
def test_a_bad_folder_is_one_clear_line(how, message, model_folder, tmp_path):
    shutil.copytree(model_folder("vit")[0], tmp_path, dirs_exist_ok=True)
    damage(tmp_path, how)
    with pytest.raises(S2RobotError, match=message) as raised:
        huggingface_backbone(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_registers_that_the_configuration_does_not_have_are_found_out(model_folder, tmp_path):
    """A checkpoint with registers under the configuration of one without would give other features without a word."""
    shutil.copytree(model_folder("dinov2")[0], tmp_path, dirs_exist_ok=True)
    shutil.copy(model_folder("dinov2_registers")[0] / "model.safetensors", tmp_path)
    with pytest.raises(S2RobotError, match=r"architecture does not: embeddings.register_tokens \(1 tensors\)"):
        huggingface_backbone(str(tmp_path))


def test_a_file_of_weights_is_enough_where_a_card_says_the_rest(model_folder):
    folder, _ = model_folder("clip")
    card = Card.parse(CARD)
    alone = huggingface_backbone(str(folder / "model.safetensors"), card=card)
    whole = huggingface_backbone(str(folder), card=card)
    fingerprints = {MultiscaleEncoder(b, (32,), dtype="float32").fingerprint for b in (alone, whole)}
    assert len(fingerprints) == 1
    assert list(alone.origin["files"]) == ["model.safetensors"]


def test_weights_of_one_file_or_seed_are_the_same_in_every_precision(model_folder):
    path = str(model_folder("vit")[0])
    exact, rounded = (MultiscaleEncoder(huggingface_backbone(path), (32,), dtype=d) for d in ("float32", "bfloat16"))
    assert exact.weights_sha256() != rounded.weights_sha256()
    assert weights_identity(exact) == weights_identity(rounded)
    drawn = [
        MultiscaleEncoder(huggingface_backbone(path, "random", seed), (32,), dtype=dtype)
        for seed, dtype in ((0, "float32"), (1, "float32"), (1, "bfloat16"))
    ]
    identities = [weights_identity(encoder) for encoder in (exact, *drawn)]
    assert identities[-1] == identities[-2]
    assert len(set(identities)) == 3


def test_a_file_of_weights_without_a_card_says_what_to_give(model_folder):
    file = model_folder("vit")[0] / "model.safetensors"
    with pytest.raises(
        S2RobotError, match=r"is a file of weights, which says neither architecture nor .*; give the fo"
    ):
        huggingface_backbone(str(file))


def test_the_blocks_after_the_layer_that_is_read_cost_nothing(model_folder):
    whole, early = (huggingface_backbone("x/y", "random", 0, Card.parse(CARD | {"layer": n})) for n in (-1, -2))
    assert early.num_params() < whole.num_params()
    with pytest.raises(S2RobotError, match=r"layer=-3: the blocks of this 'clip_vision_model' are 2"):
        huggingface_backbone("x/y", "random", 0, Card.parse(CARD | {"layer": -3}))


def test_a_card_with_a_misspelt_setting_is_refused():
    card = Card.parse(CARD | {"model": CARD["model"] | {"hiden_size": 3}})
    with pytest.raises(S2RobotError, match="'clip_vision_model' has no settings hiden_size"):
        huggingface_backbone("x/y", "random", 0, card)


def test_a_text_model_is_refused(tmp_path):
    transformers.BertModel(transformers.BertConfig(**(SMALL | TEXT))).save_pretrained(tmp_path)
    transformers.ViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(S2RobotError, match="is a 'bert', not a vision model: its input is input_ids"):
        huggingface_backbone(str(tmp_path))


@pytest.mark.parametrize("path", ["someone/some-model", "/no/such/folder"])
def test_without_a_network_the_line_says_what_to_place_where(path, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        S2RobotError, match=r"place its config.json, preprocessor_config.json, model.safetensors, .* in a folder"
    ):
        huggingface_backbone(path)


def test_an_unknown_embedded_encoder_names_the_nearest(monkeypatch, tmp_path):
    (tmp_path / "vit_tiny_112").mkdir()
    (tmp_path / "vit_tiny_112" / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface, "WEIGHTS_FOLDER", tmp_path)
    with pytest.raises(S2RobotError, match="'vit_tiny'; known: vit_tiny_112; did you mean 'vit_tiny_112'"):
        huggingface_backbone("embedded:vit_tiny")
