"""The catalogue: every YAML of configs/encoder builds, costs what it says, and may not name foreign code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from encoder_models import frames
from omegaconf import OmegaConf

from s2robot.encoders import Encoder, encoder_names, huggingface, load_encoder, match_sizes, matched, named_encoders
from s2robot.encoders.load import encoder_config
from s2robot.errors import MismatchError, S2RobotError

EMBEDDED = {"vit_tiny_112": (192, 3, 112), "vit_small_128": (384, 6, 128)}


@pytest.fixture(autouse=True)
def architectures_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The embedded models as config.json without weights: these tests are about the catalogue, not about training."""
    for name, (width, heads, side) in EMBEDDED.items():
        config = transformers.ViTConfig(
            hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width, image_size=side
        )
        config.save_pretrained(tmp_path / name)
        settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        (tmp_path / name / "preprocessor_config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(huggingface, "WEIGHTS_FOLDER", tmp_path)


def load(name: str, **overrides: object) -> Encoder:
    weights = {} if name in ("blind", "pixels") else {"weights": "random"}
    return load_encoder(name, device="cpu", **(weights | overrides))


def test_the_catalogue_holds_the_arms_of_the_experiment():
    assert {"base", "s2", "s2_unpooled", "large", "fine", "random", "blind", "hf"} <= set(encoder_names())


@pytest.mark.parametrize(
    "name", [name for name in encoder_names() if name != "hf" and "card" not in encoder_config(name)]
)
def test_every_named_encoder_encodes_a_frame(name):
    encoder = load(name)
    features = encoder(frames(1, 240))
    assert features.tokens.shape == (1, encoder.grid[0] * encoder.grid[1], encoder.channels)
    assert json.loads(json.dumps(encoder.spec()))["fingerprint"] == encoder.fingerprint


@pytest.mark.parametrize(
    ("name", "gmac", "grid", "tiles"),
    [
        ("base", 0.28, (7, 7), 1),
        ("s2", 1.42, (7, 7), 5),
        ("s2_unpooled", 1.42, (14, 14), 5),
        ("large", 1.44, (8, 8), 1),
        ("fine", 1.47, (7, 7), 1),
        ("fine_unpooled", 1.47, (15, 15), 1),
        ("random", 1.42, (7, 7), 5),
        ("blind", 0, (0, 0), 0),
    ],
)
def test_the_arms_cost_what_the_design_says(name, gmac, grid, tiles):
    encoder = load(name)
    cost = encoder.cost(240, 240)
    assert cost.gmac == pytest.approx(gmac, abs=0.006)
    assert (encoder.grid, cost.tiles) == (grid, tiles)


def test_s2_large_and_fine_are_matched_and_match_sizes_finds_s2():
    s2, large, fine = load("s2"), load("large"), load("fine")
    assert matched(s2, large) == pytest.approx(0.986, abs=0.01)
    assert matched(s2, fine) == pytest.approx(0.966, abs=0.01)
    assert match_sizes(large, s2.backbone) == (112, 224)
    with pytest.raises(MismatchError, match=r"nearest is \[64, 128\]"):
        match_sizes(s2, large.backbone)


def test_what_a_caller_says_goes_before_what_the_yaml_says():
    assert load("s2", sizes=[112], dtype="float32").spec()["sizes"] == [112]
    assert load("s2", dtype="float32").spec()["dtype"] == "float32"
    composed = OmegaConf.create({"_target_": "s2robot.encoders.blind.BlindEncoder", "device": "cpu"})
    assert load_encoder(composed).name == "blind"
    kept = {"_target_": "s2robot.encoders.huggingface.huggingface_encoder", "path": "embedded:vit_tiny_112"}
    kept |= {"sizes": [112], "weights": "random", "dtype": "float32"}
    assert load_encoder(kept).spec()["dtype"] == "float32"
    assert "_target_" in kept


def test_an_encoder_under_another_name_is_the_one_it_names_with_keys_replaced():
    found = named_encoders(["base", {"s2_random": {"encoder": "s2", "weights": "random", "seed": 4}}])
    assert list(found) == ["base", "s2_random"]
    assert found["base"] == encoder_config("base")
    assert found["s2_random"] == encoder_config("s2") | {"weights": "random", "seed": 4}
    assert load_encoder(found["s2_random"], device="cpu").sizes == (112, 224)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["base", "base"], "encoder 'base' is listed twice"),
        (["base", {"base": {"encoder": "s2"}}], "encoder 'base' is listed twice"),
        (["sz"], "unknown encoder 'sz'"),
        ([{"mine": {"encoder": "sz"}}], "unknown encoder 'sz'"),
        ([{"mine": {"path": "x"}}], "is no encoder; give a name, or {new_name: {encoder: name, key: value}}"),
        ([{"mine": "s2"}], "is no encoder"),
        ([{"a": {"encoder": "s2"}, "b": {"encoder": "s2"}}], "is no encoder"),
        ([["s2"]], "is no encoder"),
        *(
            ([{name: {"encoder": "s2"}}], f"{name!r} names no encoder")
            for name in ("a/b", "..", "", "constant", "episodes")
        ),
    ],
)
def test_a_list_of_encoders_that_cannot_be_is_one_line(entries: list[Any], message: str) -> None:
    with pytest.raises(S2RobotError, match=re.escape(message)):
        named_encoders(entries)


def test_random_is_s2_but_for_the_weights():
    s2, random = load("s2", seed=1), load_encoder("random", device="cpu")
    differing = {key for key, value in s2.spec().items() if value != random.spec()[key]}
    assert differing == {"name", "weights_sha256", "fingerprint", "origin"}


TARGETS = {
    "os.system": "allowed: a class or function under s2robot",
    "s2robotic.encoders.Evil": "allowed: a class or function under s2robot",
    "s2robot.storage.os": "was not defined in s2robot",
    "s2robot.storage.os.system": "cannot be found",
    "s2robot.storage.tempfile": "was not defined in s2robot",
    "s2robot.storage.Any": "was not defined in s2robot",
    "s2robot.encoders.load.PACKAGE": "was not defined in s2robot",
    "s2robot.encoders.nothing.Encoder": "cannot be found",
    "s2robot.encoders.encoder.Nothing": "cannot be found",
    None: "_target_=None",
    7: "_target_=7",
}


@pytest.mark.parametrize(("target", "message"), TARGETS.items(), ids=map(str, TARGETS))
def test_a_target_outside_the_package_is_refused(target, message):
    with pytest.raises(S2RobotError, match=message):
        load_encoder({"_target_": target, "command": "true"})


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(S2RobotError, match=r"unknown encoder 'larg'; known: base, .*did you mean 'large'"):
        load_encoder("larg")


def test_an_unknown_key_is_named():
    with pytest.raises(S2RobotError, match=r"configuration of BlindEncoder: .*'colour'; keys are device, dtype"):
        load_encoder("blind", colour="red")


def test_a_model_folder_must_be_given_to_hf():
    with pytest.raises(S2RobotError, match=r"needs a value for path; give path="):
        load_encoder("hf")


def test_hf_takes_any_folder(tmp_path):
    encoder = load("hf", path=str(tmp_path / "vit_tiny_112"), sizes=[112, 224], dtype="float32")
    assert torch.equal(encoder(frames(1, 224)).tokens, load("random", dtype="float32")(frames(1, 224)).tokens)
