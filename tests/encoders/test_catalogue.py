"""The zoo's cards: published sizes, every one a known layout, and the table that is printed from them."""

from __future__ import annotations

import json
from typing import NamedTuple

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

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
OPENAI = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


class Fact(NamedTuple):
    """What the publishers say: millions of weights without classifier, decoder and pooling head; px; the rest."""

    millions: float
    side: int
    patch: int
    heads: int
    eps: float
    activation: str
    normalise: tuple[list[float], list[float]]
    registers: int = 0
    layer: int = -1


TANH = "gelu_pytorch_tanh"
FACTS = {
    "vit_base": Fact(85.8, 224, 16, 12, 1e-12, "gelu", HALF),
    "vit_large": Fact(303.3, 224, 16, 16, 1e-12, "gelu", HALF),
    "vit_mae_base": Fact(85.8, 224, 16, 12, 1e-12, "gelu", IMAGENET),
    "vit_mae_large": Fact(303.3, 224, 16, 16, 1e-12, "gelu", IMAGENET),
    "dinov2_small": Fact(22.1, 518, 14, 6, 1e-6, "gelu", IMAGENET),
    "dinov2_base": Fact(86.6, 518, 14, 12, 1e-6, "gelu", IMAGENET),
    "dinov2_large": Fact(304.4, 518, 14, 16, 1e-6, "gelu", IMAGENET),
    "dinov2_giant": Fact(1136.5, 518, 14, 24, 1e-6, "gelu", IMAGENET),
    "dinov2_reg_small": Fact(22.1, 518, 14, 6, 1e-6, "gelu", IMAGENET, 4),
    "dinov2_reg_base": Fact(86.6, 518, 14, 12, 1e-6, "gelu", IMAGENET, 4),
    "dinov2_reg_large": Fact(304.4, 518, 14, 16, 1e-6, "gelu", IMAGENET, 4),
    "dinov2_reg_giant": Fact(1136.5, 518, 14, 24, 1e-6, "gelu", IMAGENET, 4),
    "dinov3_small": Fact(21.6, 224, 16, 6, 1e-5, "gelu", IMAGENET, 4),
    "dinov3_base": Fact(85.7, 224, 16, 12, 1e-5, "gelu", IMAGENET, 4),
    "dinov3_large": Fact(303.1, 224, 16, 16, 1e-5, "gelu", IMAGENET, 4),
    "clip_base": Fact(85.8, 224, 16, 12, 1e-5, "quick_gelu", OPENAI, layer=-2),
    "clip_large": Fact(303.2, 224, 14, 16, 1e-5, "quick_gelu", OPENAI, layer=-2),
    "openclip_base": Fact(85.8, 224, 16, 12, 1e-5, "gelu", OPENAI, layer=-2),
    "openclip_large": Fact(303.2, 224, 14, 16, 1e-5, "gelu", HALF, layer=-2),
    "siglip_base": Fact(85.8, 224, 16, 12, 1e-6, TANH, HALF),
    "siglip_large": Fact(303.4, 256, 16, 16, 1e-6, TANH, HALF),
    "siglip_so400m": Fact(412.4, 224, 14, 16, 1e-6, TANH, HALF),
    "siglip2_base": Fact(85.8, 224, 16, 12, 1e-6, TANH, HALF),
    "siglip2_large": Fact(303.4, 256, 16, 16, 1e-6, TANH, HALF),
    "siglip2_so400m": Fact(412.4, 224, 14, 16, 1e-6, TANH, HALF),
    "mvp_small": Fact(21.7, 224, 16, 12, 1e-6, "gelu", IMAGENET),  # twelve heads of 32
    "mvp_base": Fact(85.8, 224, 16, 12, 1e-6, "gelu", IMAGENET),
    "mvp_large": Fact(303.4, 256, 16, 16, 1e-6, "gelu", IMAGENET),
    "vc1_base": Fact(85.8, 224, 16, 12, 1e-6, "gelu", IMAGENET),
    "vc1_large": Fact(303.3, 224, 16, 16, 1e-6, "gelu", IMAGENET),
    "r3m_18": Fact(11.2, 224, 32, 0, 0, "relu", IMAGENET),
    "r3m_50": Fact(23.5, 224, 32, 0, 0, "relu", IMAGENET),
    "resnet_18": Fact(11.2, 224, 32, 0, 0, "relu", IMAGENET),
    "resnet_50": Fact(23.5, 224, 32, 0, 0, "relu", IMAGENET),
}
CARDS = [name for name in encoder_names() if "card" in encoder_config(name)]


def test_every_card_is_held_to_what_its_publisher_says():
    assert set(CARDS) == set(FACTS)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_describes_the_published_model(name):
    settings, fact = encoder_config(name), FACTS[name]
    card = Card.parse(settings["card"])
    config = model_config(card.model)
    options = {"add_pooling_layer": False} if card.model["model_type"] == "vit" else {}
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config, **options)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(fact.millions, abs=0.1)
    assert (card.mean, card.std, card.layer) == (*fact.normalise, fact.layer)
    assert config.hidden_act == fact.activation
    if fact.heads:
        assert (config.image_size, config.patch_size) == (fact.side, fact.patch)
        assert (config.num_attention_heads, config.layer_norm_eps) == (fact.heads, fact.eps)
    assert getattr(config, "num_register_tokens", 0) == fact.registers
    assert card.licence
    assert settings.get("layout", "timm_vit") in LAYOUTS
    [size] = settings["sizes"]
    assert size % fact.patch == 0
    assert size == fact.side or fact.side == 518


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
    arguments = ["names=[s2,blind,pixels,hf,r3m_18]", "match=r3m_18", "device=cpu", f"out={out}"]
    assert main(["encoders", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "hf                 huggingface_encoder needs a value for path" in printed
    report = json.loads(out.read_text())
    s2, blind, pixels, r3m = report["encoders"]
    assert s2["gmac_scales"] == pytest.approx([0.284, 1.421, 3.979], abs=0.002)
    assert s2["gmac"] == pytest.approx(1.421, abs=0.002)
    assert (blind["gmac_scales"], blind["latency_ms"]) == ([0, 0, 0], None)
    assert (pixels["gmac"], pixels["tokens"]) == (0, 84 * 84)
    assert (r3m["licence"], r3m["tokens"]) == ("MIT", 49)
    assert r3m["latency_ms"] > 0
    [match] = report["match"]["sizes"]
    assert match["name"] == "s2"
    assert match["ratio"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("names=[s3]", "unknown encoder 's3'; known: base"),
        ("names=s3", "unknown encoder 's3'; known: base"),
        ("match=s3", "unknown encoder 's3'; known: base"),
        ("match=blind", "match=blind: it costs nothing"),
        ("match=hf", "huggingface_encoder needs a value for path"),
    ],
)
def test_a_wrong_name_is_one_line(argument, message, capsys):
    assert main(["encoders", argument]) == 2
    assert message in capsys.readouterr().err
