"""Writes golden/released.npz: features of released layouts by their upstream code, on our own small random weights.

    python tests/encoders/golden_released.py

It needs timm (the code that MVP and VC-1 are built on), open_clip and torchvision (R3M's ResNets), which the tests do
not: VERSIONS were used. Every case starts from the raw uint8 frame, with upstream's mean and std. Only arrays are
stored.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

VERSIONS = {"timm": "1.0.31", "open_clip_torch": "3.3.0", "torchvision": "0.29.2"}
GOLDEN = Path(__file__).parent / "golden" / "released.npz"
SIDE = 32
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
PICTURE = {"image_size": SIDE, "patch_size": 8}
STAGES = {"embedding_size": 64, "hidden_act": "relu"}


class Case(NamedTuple):
    """A small model of one layout: our card of it, and what its file holds."""

    layout: str
    model: dict[str, Any]
    normalise: dict[str, tuple[float, ...]]
    layer: int
    shapes: Callable[[], dict[str, tuple[int, ...]]]
    side: int = SIDE


def vit_shapes() -> dict[str, tuple[int, ...]]:
    """MAE's checkpoint: the encoder's tensors and, as in VC-1's, some of the decoder's."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 32),
        "pos_embed": (1, 17, 32),
        "mask_token": (1, 1, 16),
        "patch_embed.proj.weight": (32, 3, 8, 8),
        "patch_embed.proj.bias": (32,),
        "norm.weight": (32,),
        "norm.bias": (32,),
        "decoder_embed.weight": (16, 32),
        "decoder_blocks.0.attn.qkv.weight": (48, 16),
    }
    for i in range(2):
        for name, shape in {
            "norm1": (32,),
            "norm2": (32,),
            "attn.qkv": (96, 32),
            "attn.proj": (32, 32),
            "mlp.fc1": (128, 32),
            "mlp.fc2": (32, 128),
        }.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
    return shapes


def clip_shapes() -> dict[str, tuple[int, ...]]:
    """OpenCLIP's checkpoint: the vision tower and something of the text tower."""
    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "token_embedding.weight": (50, 32),
        "visual.proj": (32, 8),
        "visual.class_embedding": (32,),
        "visual.positional_embedding": (17, 32),
        "visual.conv1.weight": (32, 3, 8, 8),
    }
    for name in ("ln_pre", "ln_post"):
        shapes |= {f"visual.{name}.weight": (32,), f"visual.{name}.bias": (32,)}
    for i in range(2):
        block = f"visual.transformer.resblocks.{i}"
        shapes |= {f"{block}.attn.in_proj_weight": (96, 32), f"{block}.attn.in_proj_bias": (96,)}
        for name, shape in {
            "ln_1": (32,),
            "ln_2": (32,),
            "attn.out_proj": (32, 32),
            "mlp.c_fc": (128, 32),
            "mlp.c_proj": (32, 128),
        }.items():
            shapes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
    return shapes


def resnet_shapes(depth: int) -> dict[str, tuple[int, ...]]:
    """R3M's checkpoint: ResNet-18 or -50, and something of its language model."""
    shapes: dict[str, tuple[int, ...]] = {"module.lang_enc.weight": (4, 4)}

    def add(conv: str, norm: str, out: int, into: int, kernel: int) -> None:
        shapes[f"module.convnet.{conv}.weight"] = (out, into, kernel, kernel)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"module.convnet.{norm}.{name}"] = (out,)
        shapes[f"module.convnet.{norm}.num_batches_tracked"] = ()

    add("conv1", "bn1", 64, 3, 7)
    into, bottleneck = 64, depth == 50
    for stage, blocks in enumerate((3, 4, 6, 3) if bottleneck else (2, 2, 2, 2)):
        width = 64 * 2**stage
        for block in range(blocks):
            at = f"layer{stage + 1}.{block}"
            out = 4 * width if bottleneck else width
            kernels = (
                ((width, into, 1), (width, width, 3), (out, width, 1))
                if bottleneck
                else (
                    (width, into, 3),
                    (width, width, 3),
                )
            )
            for k, (to, source, kernel) in enumerate(kernels, 1):
                add(f"{at}.conv{k}", f"{at}.bn{k}", to, source, kernel)
            if block == 0 and out != into:
                add(f"{at}.downsample.0", f"{at}.downsample.1", out, into, 1)
            into = out
    return shapes


RESNET = {"model_type": "resnet", **STAGES}
CASES = {
    # MVP's ViT-S has twelve heads of 32: heads change no shape, so a wrong number shows in the features alone.
    "mae": Case("timm_vit", {"model_type": "vit", "layer_norm_eps": 1e-6, **VIT, **PICTURE}, IMAGENET, -1, vit_shapes),
    "open_clip": Case(
        "open_clip", {"model_type": "clip_vision_model", "hidden_act": "gelu", **VIT, **PICTURE}, CLIP, -2, clip_shapes
    ),
    "r3m_18": Case(
        "r3m",
        RESNET | {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
        IMAGENET,
        -1,
        functools.partial(resnet_shapes, 18),
        side=64,
    ),
    "r3m_50": Case(
        "r3m",
        RESNET | {"depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048], "layer_type": "bottleneck"},
        IMAGENET,
        -1,
        functools.partial(resnet_shapes, 50),
        side=64,
    ),
}


def random_state(case: Case) -> dict[str, Tensor]:
    """The tensors of a case's file; numpy promises never to change RandomState's stream."""
    stream = np.random.RandomState(17)
    state = {}
    for name, shape in case.shapes().items():
        values = stream.standard_normal(shape) if shape else np.float64(1.0)
        scale = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.2
        if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            array = 1 + 0.2 * np.abs(values)  # norms near zero would hide the image
        else:
            array = scale * values
        state[name] = torch.tensor(np.asarray(array), dtype=torch.float32)
    return state


def frames(side: int) -> Tensor:
    """Two uint8 frames (2, 3, side, side)."""
    return torch.from_numpy(np.random.RandomState(19).randint(0, 256, (2, 3, side, side)).astype(np.uint8))


def pixels(case: Case) -> Tensor:
    """As every one of these publishers normalises: [0, 1], then mean and std per channel."""
    mean, std = (torch.tensor(case.normalise[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (frames(case.side).float() / 255 - mean) / std


def upstream_vit(case: Case, state: dict[str, Tensor]) -> Tensor:
    """MVP and VC-1 subclass this model and take its tokens after the final norm."""
    from timm.models.vision_transformer import VisionTransformer

    norm = functools.partial(nn.LayerNorm, eps=1e-6)
    model = VisionTransformer(
        img_size=SIDE, patch_size=8, embed_dim=32, depth=2, num_heads=4, qkv_bias=True, norm_layer=norm, num_classes=0
    )
    kept = {name: value for name, value in state.items() if "decoder" not in name and "mask_token" not in name}
    model.load_state_dict(kept)
    return model.eval().forward_features(pixels(case))


def upstream_clip(case: Case, state: dict[str, Tensor]) -> Tensor:
    """The tokens that go into the last block: what LLaVA and S2 read of CLIP."""
    from open_clip.transformer import VisionTransformer

    model = VisionTransformer(image_size=SIDE, patch_size=8, width=32, layers=2, heads=4, mlp_ratio=4.0, output_dim=8)
    model.load_state_dict(
        {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    )
    seen: list[Tensor] = []
    model.eval().transformer.resblocks[-1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(pixels(case))
    return seen[0]


def upstream_resnet(case: Case, state: dict[str, Tensor]) -> Tensor:
    """R3M's convnet up to the map that it averages."""
    from torchvision.models import resnet

    model = {18: resnet.resnet18, 50: resnet.resnet50}[50 if case.model["layer_type"] == "bottleneck" else 18]()
    model.fc = nn.Identity()
    prefix = "module.convnet."
    model.load_state_dict({n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)})
    seen: list[Tensor] = []
    model.eval().layer4.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(pixels(case))
    return seen[0]


UPSTREAM = {"timm_vit": upstream_vit, "open_clip": upstream_clip, "r3m": upstream_resnet}


def main() -> None:
    """Run every case through its upstream code."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    arrays = {}
    with torch.no_grad():
        for name, case in CASES.items():
            arrays[name] = UPSTREAM[case.layout](case, random_state(case)).numpy()
            print(name, arrays[name].shape, f"std {arrays[name].std():.3f}", file=sys.stderr)
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
