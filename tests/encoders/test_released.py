"""Weights released as one file: the features of upstream's own code on the raw frame, and clear lines for bad files."""

from __future__ import annotations

import argparse
import dataclasses
import pickle
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from golden_released import CASES, GOLDEN, Case, frames, random_state
from safetensors.torch import save_file
from torch import Tensor

from s2robot.encoders import MultiscaleEncoder
from s2robot.encoders.backbone import Backbone
from s2robot.encoders.card import Card
from s2robot.encoders.released import LAYOUTS, released_backbone
from s2robot.errors import S2RobotError
from s2robot.storage import sha256_file


def card_of(case: Case) -> Card:
    return Card(case.model, case.normalise["mean"], case.normalise["std"], "CC BY-NC 4.0", case.layer)


def save(case: Case, state: dict[str, Tensor], file: Path) -> None:
    """As its authors write it: beside the tensors lies the command line that trained them."""
    inside = LAYOUTS[case.layout].inside
    torch.save({inside: state, "args": argparse.Namespace(lr=1e-3), "epoch": 800}, file)


def load(case: Case, path: Path | str, file: str = "weights.pth", **changes: object) -> Backbone:
    return released_backbone(str(path), file, case.layout, dataclasses.replace(card_of(case), **changes))


def features(backbone: Backbone, case: Case) -> Tensor:
    """All tokens in upstream's order, or the map."""
    encoder = MultiscaleEncoder(backbone, (case.side,), dtype="float32", device="cpu")
    out = encoder(frames(case.side))
    if backbone.num_prefix_tokens:
        return torch.cat([out.prefix, out.tokens], dim=1)
    return out.tokens.transpose(1, 2).unflatten(2, out.grid)


def error_of(backbone: Backbone, case: Case) -> float:
    """Largest difference from upstream's features."""
    with np.load(GOLDEN, allow_pickle=False) as golden:
        expected = torch.from_numpy(golden[next(name for name, other in CASES.items() if other is case)])
    return float((features(backbone, case) - expected).abs().max())


@pytest.mark.parametrize("name", CASES)
def test_a_released_file_gives_the_features_of_upstream_on_the_raw_frame(name, tmp_path):
    """Golden features by timm 1.0.31, open_clip 3.3.0 and torchvision 0.29.2 (golden_released.py)."""
    case = CASES[name]
    save(case, random_state(case), tmp_path / "weights.pth")
    backbone = load(case, tmp_path)
    assert error_of(backbone, case) < 1e-4  # another order of summation, on processors without AVX-512
    assert backbone.image_size in (32, 224)
    assert backbone.origin == {
        "licence": "CC BY-NC 4.0",
        "files": {"weights.pth": sha256_file(tmp_path / "weights.pth")},
    }


MISTAKES = {"mean": {"mean": (0.5, 0.456, 0.406)}, "std": {"std": (0.229, 0.224, 0.25)}}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_mean_or_std_shows(name, mistake, tmp_path):
    case = CASES[name]
    save(case, random_state(case), tmp_path / "weights.pth")
    assert error_of(load(case, tmp_path, **MISTAKES[mistake]), case) > 1e-3


@pytest.mark.parametrize(("name", "layer"), [("mae", -2), ("open_clip", -1)])
def test_a_wrong_layer_shows(name, layer, tmp_path):
    case = CASES[name]
    save(case, random_state(case), tmp_path / "weights.pth")
    assert error_of(load(case, tmp_path, layer=layer), case) > 1e-3


@pytest.mark.parametrize(("name", "message"), [("mae", "of this 'vit' are 2"), ("r3m_18", "'resnet' are not known")])
def test_a_layer_that_is_not_there_is_one_line(name, message):
    case = CASES[name]
    card = dataclasses.replace(card_of(case), layer=-3)
    with pytest.raises(S2RobotError, match=f"layer=-3: the blocks .*{message}"):
        released_backbone("/none", "w.pth", case.layout, card, "random")


@pytest.mark.parametrize("change", [{"num_attention_heads": 2}, {"layer_norm_eps": 1e-2}, {"hidden_act": "quick_gelu"}])
@pytest.mark.parametrize("name", ["mae", "open_clip"])
def test_what_no_tensor_tells_shows_in_the_features(name, change, tmp_path):
    case = CASES[name]
    save(case, random_state(case), tmp_path / "weights.pth")
    assert error_of(load(case, tmp_path, model=case.model | change), case) > 1e-3


def test_the_same_tensors_load_from_a_file_a_folder_and_safetensors(tmp_path):
    case = CASES["open_clip"]
    state = random_state(case)
    save(case, state, tmp_path / "weights.pth")
    torch.save(state, tmp_path / "top.bin")
    save_file(state, tmp_path / "open_clip_model.safetensors")
    backbones = [
        load(case, tmp_path),
        load(case, tmp_path / "weights.pth"),
        load(case, tmp_path / "top.bin"),
        load(case, tmp_path, "open_clip_model.safetensors"),
    ]
    assert len({backbone.weights_sha256() for backbone in backbones}) == 1


def test_of_several_names_the_first_that_is_there_counts(tmp_path):
    case = CASES["open_clip"]
    save_file(random_state(case), tmp_path / "second.safetensors")
    found = released_backbone(str(tmp_path), ["first.safetensors", "second.safetensors"], case.layout, card_of(case))
    assert list(found.origin["files"]) == ["second.safetensors"]


def test_random_weights_need_no_file():
    case = CASES["mae"]
    one, other = (released_backbone("/none", "w.pth", case.layout, card_of(case), "random", seed) for seed in (0, 1))
    assert (one.name, one.patch, one.num_prefix_tokens, one.image_size) == ("w-random0", 8, 1, 32)
    assert one.weights_sha256() != other.weights_sha256()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("never",)


def damage(case: Case, file: Path, how: str) -> None:
    """Write a file that is bad in one way."""
    state = random_state(case)
    match how:
        case "truncated":
            save(case, state, file)
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        case "empty":
            file.write_bytes(b"")
        case "truncated, as torch wrote before 1.6":
            torch.save({"model": state}, file, _use_new_zipfile_serialization=False)
            file.write_bytes(file.read_bytes()[:300])
        case "rows that three do not divide":
            save(case, state | {"blocks.0.attn.qkv.weight": torch.zeros(100, 32)}, file)
        case "not weights":
            file.write_text("<html>404</html>")
        case "Git LFS":
            file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
        case "runs code":
            file.write_bytes(pickle.dumps({"model": Evil()}))
        case "no tensors":
            torch.save({"model": {"epoch": 3}}, file)
        case "missing tensors":
            save(case, {key: value for key, value in state.items() if not key.startswith("blocks.1.")}, file)
        case "another architecture":
            save(case, state | {"blocks.2.norm1.weight": torch.zeros(32), "relative_position": torch.zeros(2)}, file)
        case "another width":
            save(case, state | {"norm.weight": torch.zeros(48), "norm.bias": torch.zeros(48)}, file)
        case "NaN":
            state["norm.bias"][3] = torch.nan
            save(case, state, file)
        case "another layout":
            save(case, random_state(CASES["open_clip"]), file)


BAD_FILES = {
    "truncated": "does not load as weights",
    "empty": "does not load as weights",
    "truncated, as torch wrote before 1.6": "does not load as weights",
    "rows that three do not divide": "the weights lack",
    "not weights": "does not load as weights: it is a web page; get it again",
    "Git LFS": "does not load as weights: it is a Git LFS pointer: fetch the file itself with `git lfs pull`",
    "runs code": "does not load as weights: it holds more than tensors, or is damaged; what could run code is never",
    "no tensors": "holds no named tensors, at its top or under 'model'",
    "missing tensors": r"the weights lack layers.1.* and 11 more \(16 tensors\), as transformers names them",
    "another architecture": r"have what the architecture does not: .*relative_position.*\(2 tensors\)",
    "another width": r"layernorm.bias is \(48,\), not \(32,\), layernorm.weight is \(48,\), not \(32,\)",
    "NaN": r"are NaN or infinite in layernorm.bias \(1 tensors\)",
    "another layout": "the weights lack",
}


@pytest.mark.parametrize(("how", "message"), BAD_FILES.items(), ids=BAD_FILES)
def test_a_bad_file_is_one_clear_line(how, message, tmp_path):
    damage(CASES["mae"], tmp_path / "weights.pth", how)
    with pytest.raises(S2RobotError, match=message) as raised:
        load(CASES["mae"], tmp_path)
    assert "\n" not in str(raised.value)
    assert "weights.pth" in str(raised.value)


def test_a_renamed_file_is_known_by_its_content(tmp_path):
    case = CASES["mae"]
    state = random_state(case)
    save(case, state, tmp_path / "pickled.safetensors")
    save_file(state, tmp_path / "safe.pth")
    one, other = (load(case, tmp_path, name) for name in ("pickled.safetensors", "safe.pth"))
    assert one.weights_sha256() == other.weights_sha256()


def test_a_missing_file_says_what_to_place_where(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    case = CASES["mae"]
    with pytest.raises(
        S2RobotError, match=f"w.pth not found in {tmp_path}; get w.pth from https://x and place it there"
    ):
        load(case, tmp_path, "w.pth", source="https://x")
    with pytest.raises(S2RobotError, match=r"'laion/clip' is neither a folder here .* place its w.pth in a folder"):
        load(case, "laion/clip", "w.pth")


def test_an_unknown_layout_names_the_known_ones():
    with pytest.raises(S2RobotError, match=r"unknown layout 'tim_vit'.*did you mean 'timm_vit'"):
        released_backbone("/none", "w.pth", "tim_vit", card_of(CASES["mae"]))
