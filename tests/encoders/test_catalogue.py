"""The zoo's cards: published sizes, every one a known layout, and the table that is printed from them."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from s2robot.cli.main import main
from s2robot.encoders import encoder_names, load_encoder, match_sizes
from s2robot.encoders.card import Card
from s2robot.encoders.load import encoder_config
from s2robot.encoders.released import LAYOUTS
from s2robot.encoders.vision_model import model_config
from s2robot.errors import S2RobotError
from s2robot.pipeline.catalogue import without_weights

# Millions of weights of the vision model without classifier, decoder and pooling head, as published.
MILLIONS = {
    "vit_base": 85.8, "vit_large": 303.3, "vit_mae_base": 85.8, "vit_mae_large": 303.3,
    "dinov2_small": 22.1, "dinov2_base": 86.6, "dinov2_large": 304.4, "dinov2_giant": 1136.5,
    "dinov2_reg_small": 22.1, "dinov2_reg_base": 86.6, "dinov2_reg_large": 304.4, "dinov2_reg_giant": 1136.5,
    "dinov3_small": 21.6, "dinov3_base": 85.7, "dinov3_large": 303.1,
    "clip_base": 85.8, "clip_large": 303.2, "openclip_base": 85.8, "openclip_large": 303.2,
    "siglip_base": 85.8, "siglip_large": 303.4, "siglip_so400m": 412.4,
    "siglip2_base": 85.8, "siglip2_large": 303.4, "siglip2_so400m": 412.4,
    "mvp_small": 21.7, "mvp_base": 85.8, "mvp_large": 303.4, "vc1_base": 85.8, "vc1_large": 303.3,
    "r3m_18": 11.2, "r3m_50": 23.5, "resnet_18": 11.2, "resnet_50": 23.5,
}  # fmt: skip
CARDS = [name for name in encoder_names() if "card" in encoder_config(name)]


def test_every_card_has_its_published_size_here():
    assert set(CARDS) == set(MILLIONS)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_describes_the_published_architecture(name):
    settings = encoder_config(name)
    card = Card.parse(settings["card"])
    options = {"add_pooling_layer": False} if card.model["model_type"] == "vit" else {}
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(model_config(card.model), **options)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(MILLIONS[name], abs=0.1)
    assert card.licence
    assert settings.get("layout", "timm_vit") in LAYOUTS
    [size] = settings["sizes"]
    assert size % card.model.get("patch_size", 32) == 0


@pytest.mark.parametrize(
    ("name", "gmac", "tokens"), [("vit_base", 17.56, 197), ("mvp_small", 4.60, 197), ("r3m_18", 1.81, 49)]
)
def test_cost_is_known_without_weights(name, gmac, tokens):
    cost = without_weights(name, "cpu").cost()
    assert cost.gmac == pytest.approx(gmac, rel=0.01)
    assert cost.tokens == tokens


def test_the_compute_of_a_large_model_in_scales_of_a_small_one():
    """The matched set at paper scale: ViT-S at (224, 448, 672) against ViT-L at 224 px, 1.05 times its compute."""
    large, small = (without_weights(name, "cpu") for name in ("vc1_large", "mvp_small"))
    assert match_sizes(large, small.backbone) == (224, 448, 672)


def test_weights_that_are_not_here_are_one_clear_line():
    with pytest.raises(S2RobotError, match=r"vc1_vitb.pth .*https://dl.fbaipublicfiles.com/eai-vc/vc1_vitb.pth"):
        load_encoder("vc1_base", path="/no/such/folder/")


def test_the_table_names_scales_licence_and_matching_sizes(capsys, tmp_path):
    out = tmp_path / "zoo.json"
    arguments = ["names=[s2,blind,hf,r3m_18]", "match=r3m_18", "device=cpu", f"out={out}"]
    assert main(["encoders", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "hf                 huggingface_encoder needs a value for path" in printed
    report = json.loads(out.read_text())
    s2, blind, r3m = report["encoders"]
    assert s2["gmac_scales"] == pytest.approx([0.284, 1.421, 3.979], abs=0.002)
    assert s2["gmac"] == pytest.approx(1.421, abs=0.002)
    assert (blind["gmac_scales"], blind["latency_ms"]) == ([0, 0, 0], None)
    assert (r3m["licence"], r3m["tokens"]) == ("MIT", 49)
    assert r3m["latency_ms"] > 0
    [match] = report["match"]["sizes"]
    assert match["name"] == "s2"
    assert match["ratio"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("argument", ["names=[s3]", "match=s3"])
def test_an_unknown_encoder_is_one_line(argument, capsys):
    assert main(["encoders", argument]) == 2
    assert "unknown encoder 's3'; known: base" in capsys.readouterr().err
