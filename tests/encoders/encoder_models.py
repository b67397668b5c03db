"""Tiny real vision models: two written here with weights from a frozen random stream, and small published ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from s2robot.encoders.backbone import Backbone

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


class TinyViT(nn.Module):
    """Patch embedding of 8 px, `prefix` class and register tokens, one attention block: (b, 3, s, s) -> (b, n, 16)."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.place = nn.Linear(2, 16)
        self.prefix = nn.Parameter(torch.zeros(1, prefix, 16))
        self.norm = nn.LayerNorm(16)
        self.qkv, self.out, self.mlp = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.patches(images)
        axis = torch.linspace(-1, 1, maps.shape[-1], dtype=maps.dtype)
        places = self.place(torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1))
        x = torch.cat([self.prefix.expand(len(images), -1, -1), maps.flatten(2).transpose(1, 2) + places], 1)
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + torch.tanh(self.mlp(self.norm(x)))


class TinyConvNeXt(nn.Module):
    """A stem of 8 px and one ConvNeXt block: (b, 3, s, s) -> (b, 16, s / 8, s / 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, 8)
        self.depthwise = nn.Conv2d(16, 16, 7, padding=3, groups=16)
        self.norm = nn.LayerNorm(16)
        self.wide, self.narrow = nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)


def tiny_model(name: str) -> nn.Module:
    """`vit0`, `vit1`, `vit5` (the number is that of prefix tokens) or `convnext`.

    numpy promises never to change RandomState's stream, unlike torch's generators.
    """
    model = TinyConvNeXt() if name == "convnext" else TinyViT(int(name.removeprefix("vit")))
    stream = np.random.RandomState(7)
    for parameter in model.parameters():
        parameter.data = torch.from_numpy(0.15 * stream.standard_normal(tuple(parameter.shape))).float()
    return model.eval().requires_grad_(False)


def float_images(count: int, side: int) -> Tensor:
    """Smooth structure plus noise, (count, 3, side, side), the same everywhere."""
    noise = np.random.RandomState(11).standard_normal((count, 3, side, side))
    y, x = np.mgrid[:side, :side] / side
    return torch.from_numpy(np.sin(9 * x + 5 * y) + 0.5 * noise).float()


def frames(count: int, height: int, width: int | None = None, seed: int = 3) -> Tensor:
    """uint8 frames (count, 3, height, width)."""
    pixels = np.random.RandomState(seed).randint(0, 256, (count, 3, height, width or height))
    return torch.from_numpy(pixels.astype(np.uint8))


def tiny_backbone(name: str = "vit1", **settings: object) -> Backbone:
    """A Backbone on a tiny model: patch 8, trained at 32 px."""
    prefix = 0 if name == "convnext" else int(name.removeprefix("vit"))
    options = {"patch": 8, "num_prefix_tokens": prefix, "mean": MEAN, "std": STD, "image_size": 32} | settings
    return Backbone(tiny_model(name), name, **options)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PICTURE = {"image_size": 32, "patch_size": 8}
TEXT = {**SMALL, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
DINO = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, **PICTURE}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}

FRAME = {"height": 32, "width": 32}
CROP = {"size": {"shortest_edge": 32}, "crop_size": FRAME}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


class Published(NamedTuple):
    """A published model class with random weights, its own image processor, px per cell, prefix tokens, and the side
    (px) that it says it was trained at, or that stands in where it says none.
    """

    model: Callable[[], transformers.PreTrainedModel]
    processor: Callable[[], Any]
    patch: int = 8
    prefix: int = 1
    side: int = 32


HUGGINGFACE = {
    "vit": Published(
        lambda: transformers.ViTModel(transformers.ViTConfig(**SMALL, **PICTURE), add_pooling_layer=False),
        lambda: transformers.ViTImageProcessor(size=FRAME),
    ),
    "vit_mae": Published(
        lambda: transformers.ViTMAEModel(transformers.ViTMAEConfig(**SMALL, **PICTURE)),
        lambda: transformers.ViTImageProcessor(size=FRAME, **IMAGENET),
    ),
    "dinov2": Published(
        lambda: transformers.Dinov2Model(transformers.Dinov2Config(**DINO)),
        lambda: transformers.BitImageProcessor(**CROP, **IMAGENET),
    ),
    "dinov2_registers": Published(
        lambda: transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**DINO, num_register_tokens=4)
        ),
        lambda: transformers.BitImageProcessor(**CROP, **IMAGENET),
        prefix=5,
    ),
    "dinov3": Published(
        lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SMALL, **PICTURE, num_register_tokens=4)),
        # Its own processor needs torchvision; like DINOv2's it normalises by ImageNet.
        lambda: transformers.ViTImageProcessor(size=FRAME, **IMAGENET),
        prefix=5,
    ),
    "clip": Published(
        lambda: transformers.CLIPModel(
            transformers.CLIPConfig(text_config=TEXT, vision_config={**SMALL, **PICTURE, "projection_dim": 8})
        ),
        lambda: transformers.CLIPImageProcessor(**CROP),
    ),
    "siglip": Published(
        lambda: transformers.SiglipModel(
            transformers.SiglipConfig(text_config=TEXT, vision_config={**SMALL, **PICTURE})
        ),
        lambda: transformers.SiglipImageProcessor(size=FRAME),
        prefix=0,
    ),
    "siglip_vision": Published(
        lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SMALL, **PICTURE)),
        lambda: transformers.SiglipImageProcessor(size=FRAME),
        prefix=0,
    ),
    "convnext": Published(
        lambda: transformers.ConvNextModel(transformers.ConvNextConfig(image_size=32, **STAGES)),
        lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0, **IMAGENET),
        prefix=0,
    ),
    "resnet": Published(
        lambda: transformers.ResNetModel(transformers.ResNetConfig(**RESNET)),
        lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0, **IMAGENET),
        prefix=0,
        side=224,
    ),
}
