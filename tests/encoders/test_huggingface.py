"""Published models from a folder: the same features as upstream on the raw frame, and clear lines for bad folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from encoder_models import HUGGINGFACE, MEAN, SMALL, STD, TEXT, frames
from safetensors.torch import load_file, save_file

from s2robot.encoders import MultiscaleEncoder, huggingface, huggingface_backbone
from s2robot.errors import S2RobotError


def upstream(model: torch.nn.Module, images: torch.Tensor, **options: object) -> torch.Tensor:
    """The model as its publisher runs it: vision tower, normalised pixels, last hidden state."""
    pixels = (images.float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        return getattr(model, "vision_model", model)(pixel_values=pixels, **options).last_hidden_state


def flat(model: torch.nn.Module, images: torch.Tensor, prefix: int, **options: object) -> torch.Tensor:
    """Upstream's spatial tokens (b, n, c)."""
    out = upstream(model, images, **options)
    return out.flatten(2).transpose(1, 2) if out.ndim == 4 else out[:, prefix:]


def options_of(name: str) -> dict[str, object]:
    """MAE drops and shuffles patches unless told the order to keep them in."""
    return {"noise": torch.arange(16.0).expand(2, -1)} if name == "vit_mae" else {}


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_a_folder_gives_the_features_of_upstream_on_the_raw_frame(name, model_folder):
    folder, model = model_folder(name)
    _, patch, prefix = HUGGINGFACE[name]
    if name == "vit_mae":
        model.config.mask_ratio = 0.0
    backbone = huggingface_backbone(str(folder))
    assert (backbone.patch, backbone.num_prefix_tokens, backbone.image_size) == (patch, prefix, 32)
    images = frames(2, 32)
    features = MultiscaleEncoder(backbone, (32,), dtype="float32", device="cpu")(images)
    torch.testing.assert_close(features.tokens, flat(model, images, prefix, **options_of(name)), atol=1e-5, rtol=0)
    assert features.prefix.shape[1] == prefix
    if prefix:
        expected = upstream(model, images, **options_of(name))[:, :prefix]
        torch.testing.assert_close(features.prefix, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["vit", "dinov2_registers", "clip", "siglip_vision"])
def test_position_embeddings_are_interpolated_for_another_tile(name, model_folder):
    folder, model = model_folder(name)
    prefix = HUGGINGFACE[name][2]
    options = {} if "dino" in name else {"interpolate_pos_encoding": True}
    images = frames(2, 48)
    features = MultiscaleEncoder(huggingface_backbone(str(folder)), (48,), dtype="float32", device="cpu")(images)
    assert features.grid == (6, 6)
    torch.testing.assert_close(features.tokens, flat(model, images, prefix, **options), atol=1e-5, rtol=0)


def test_masked_autoencoders_see_every_patch_in_place_and_always_the_same(model_folder):
    one = MultiscaleEncoder(huggingface_backbone(str(model_folder("vit_mae")[0])), (32, 64), dtype="float32")
    images = frames(2, 64)
    assert torch.equal(one(images).tokens, one(images).tokens)
    images[0, :, :16, :16] = 0  # the upper left 16 of 64 px are one of 4 x 4 cells at the second scale
    change = (one(images).tokens - one(frames(2, 64)).tokens)[0].norm(dim=-1)
    assert change.argmax() == 0


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


def damage(folder: Path, how: str) -> None:
    """Break a copy of a good folder in one way."""
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[-1]
    match how:
        case "no config":
            (folder / "config.json").unlink()
        case "pickle only":
            (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        case "no processor":
            (folder / "preprocessor_config.json").unlink()
        case "no mean":
            (folder / "preprocessor_config.json").write_text('{"size": 224}')
        case "truncated":
            data = (folder / "model.safetensors").read_bytes()
            (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
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
    "pickle only": r"lacks \*.safetensors.*pickled weights",
    "no processor": r'lacks preprocessor_config.json; write one with "image_mean"',
    "no mean": r'holds no "image_mean"',
    "truncated": "the weights do not load",
    "missing tensor": "the weights lack or misshape 1 tensors",
    "wrong shape": "the weights lack or misshape 1 tensors",
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


def test_a_text_model_is_refused(tmp_path):
    transformers.BertModel(transformers.BertConfig(**(SMALL | TEXT))).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    with pytest.raises(S2RobotError, match="is a 'bert', not a vision model: its input is input_ids"):
        huggingface_backbone(str(tmp_path))


@pytest.mark.parametrize("path", ["someone/some-model", "/no/such/folder"])
def test_without_a_network_the_line_says_what_to_place_where(path, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(S2RobotError, match=r"config.json, model.safetensors and preprocessor_config.json in a folder"):
        huggingface_backbone(path)


def test_an_unknown_embedded_encoder_names_the_nearest(monkeypatch, tmp_path):
    (tmp_path / "vit_tiny_112").mkdir()
    (tmp_path / "vit_tiny_112" / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface, "WEIGHTS_FOLDER", tmp_path)
    with pytest.raises(S2RobotError, match="'vit_tiny'; known: vit_tiny_112; did you mean 'vit_tiny_112'"):
        huggingface_backbone("embedded:vit_tiny")
