"""Backbones released as one file of weights in a layout of their own: MVP, VC-1, OpenCLIP, R3M.

The file's tensors get the names under which transformers publishes the same architecture, and must then fit it
exactly. Pickled files are read with `weights_only`: they cannot run code.

Dims: n tokens with prefix tokens first, c channels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from s2robot.encoders.backbone import Backbone
from s2robot.encoders.card import Card
from s2robot.encoders.encoder import MultiscaleEncoder
from s2robot.encoders.hub import download, is_hub_id
from s2robot.encoders.state_file import read_state
from s2robot.encoders.vision_model import (
    Loaded,
    check_weights_kind,
    model_config,
    pretrained_model,
    random_model,
)
from s2robot.errors import S2RobotError, unknown_name


@dataclass(frozen=True)
class Layout:
    """How a file names the tensors of an architecture.

    Args:
        inside: key under which the tensors lie in the file; absent where they are the file's top.
        prefix: of the vision model's names; all others are something else's (a text tower, a reward head).
        dropped: pattern of names, less the prefix, that belong to no features (a decoder, a classifier).
        rules: (pattern, replacement) in order, from a name less the prefix to transformers' name.
        parts: what takes the place of `qkv` in a name, a third of the rows each.
    """

    inside: str
    prefix: str
    dropped: str
    rules: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
    parts: tuple[str, ...] = ()

    def translate(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The file's tensors under transformers' names. What no rule knows keeps its name."""
        translated: dict[str, Tensor] = {}
        for full_name, tensor in state.items():
            name = full_name.removeprefix(self.prefix)
            if not full_name.startswith(self.prefix) or re.match(self.dropped, name):
                continue
            for pattern, replacement in self.rules:
                name = re.sub(pattern, replacement, name)
            if "qkv" in name and self.parts and tensor.ndim and len(tensor) % len(self.parts) == 0:
                thirds = tensor.unflatten(0, (len(self.parts), -1))
                translated |= {name.replace("qkv", part): third for part, third in zip(self.parts, thirds, strict=True)}
            else:
                translated[name] = tensor
        return translated


def _from_zero(template: str) -> Callable[[re.Match[str]], str]:
    """transformers counts from 0 what torchvision counts from 1."""
    return lambda match: template.format(int(match[1]) - 1)


LAYOUTS = {
    # The names are timm's: MAE (arXiv 2111.06377) and what was trained with its code.
    "timm_vit": Layout(
        inside="model",
        prefix="",
        dropped=r"decoder|mask_token|head\.|fc_norm\.",
        rules=[
            (r"^cls_token", "embeddings.cls_token"),
            (r"^pos_embed", "embeddings.position_embeddings"),
            (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
            (r"^blocks\.", "encoder.layer."),
            (r"\.norm1\.", ".layernorm_before."),
            (r"\.norm2\.", ".layernorm_after."),
            (r"\.attn\.qkv\.", ".attention.attention.qkv."),
            (r"\.attn\.proj\.", ".attention.output.dense."),
            (r"\.mlp\.fc1\.", ".intermediate.dense."),
            (r"\.mlp\.fc2\.", ".output.dense."),
            (r"^norm\.", "layernorm."),
        ],
        parts=("query", "key", "value"),
    ),
    "open_clip": Layout(
        inside="state_dict",
        prefix="visual.",
        dropped=r"proj$",
        rules=[
            (r"^class_embedding", "embeddings.class_embedding"),
            (r"^positional_embedding", "embeddings.position_embedding.weight"),
            (r"^conv1\.", "embeddings.patch_embedding."),
            (r"^ln_pre\.", "pre_layrnorm."),
            (r"^ln_post\.", "post_layernorm."),
            (r"^transformer\.resblocks\.", "encoder.layers."),
            (r"\.ln_(\d)\.", r".layer_norm\1."),
            (r"\.attn\.in_proj_", ".self_attn.qkv."),
            (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
            (r"\.mlp\.c_fc\.", ".mlp.fc1."),
            (r"\.mlp\.c_proj\.", ".mlp.fc2."),
        ],
        parts=("q_proj", "k_proj", "v_proj"),
    ),
    # A torchvision ResNet in a DataParallel, beside a language model.
    "r3m": Layout(
        inside="r3m",
        prefix="module.convnet.",
        dropped=r"fc\.",
        rules=[
            (r"^conv1\.", "embedder.embedder.convolution."),
            (r"^bn1\.", "embedder.embedder.normalization."),
            (r"^layer(\d)\.", _from_zero("encoder.stages.{}.layers.")),
            (r"\.conv(\d)\.", _from_zero(".layer.{}.convolution.")),
            (r"\.bn(\d)\.", _from_zero(".layer.{}.normalization.")),
            (r"\.downsample\.0\.", ".shortcut.convolution."),
            (r"\.downsample\.1\.", ".shortcut.normalization."),
        ],
    ),
}


def released_encoder(
    path: str,
    file: str | Sequence[str],
    layout: str,
    card: Mapping[str, Any],
    sizes: Sequence[int],
    tile: int | None = None,
    grid: Sequence[int] | None = None,
    weights: Literal["pretrained", "random"] = "pretrained",
    seed: int = 0,
    square: Literal["crop", "pad"] = "crop",
    dtype: str = "auto",
    device: str = "auto",
    reference: bool = False,
    resize_output_to_idx: int = 0,
) -> MultiscaleEncoder:
    """What YAMLs of configs/encoder name as their `_target_`: a MultiscaleEncoder on `released_backbone`."""
    backbone = released_backbone(path, file, layout, Card.parse(card), weights, seed)
    return MultiscaleEncoder(backbone, sizes, tile, grid, square, dtype, device, reference, resize_output_to_idx)


def released_backbone(
    path: str,
    file: str | Sequence[str],
    layout: str,
    card: Card,
    weights: Literal["pretrained", "random"] = "pretrained",
    seed: int = 0,
) -> Backbone:
    """The architecture of `card` with the weights of `path`: a file, a folder that holds `file`, or a hub id.

    Of several names of `file` the first that is there counts.

    Raises S2RobotError naming the file to place and where when it is not there, DamagedError when it is truncated,
    of another architecture or layout (naming tensors), or holds NaN. `weights="random"` needs no file.
    """
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    config, names = model_config(card.model), [file] if isinstance(file, str) else list(file)
    name = Path(names[0]).stem
    if check_weights_kind(weights) == "random":
        loaded, name = Loaded(random_model(config, seed), card.mean, card.std, card.model), f"{name}-random{seed}"
    else:
        found = find_file(path, names, card.source)
        state = LAYOUTS[layout].translate(read_state(found, LAYOUTS[layout].inside))
        loaded = Loaded(pretrained_model(config, found, state, others=()), card.mean, card.std, card.model, [found])
    return loaded.backbone(name, card.layer, card.licence)


def find_file(path: str, files: Sequence[str], source: str = "") -> Path:
    """`path` itself, or the first of `files` in it or in the hub's repository of that name. Raises S2RobotError."""
    place = Path(path).expanduser()
    if place.is_file():
        return place
    local = place.is_dir() or not is_hub_id(path)
    for file in files:
        folder = place if local else download(path, [file])
        if (folder / file).is_file():
            return folder / file
    hint = f"get {files[0]} from {source} and place it there" if source else f"place {files[0]} there"
    raise S2RobotError(f"{' and '.join(files)} not found in {place}; {hint}, or give the path of a file or its folder")
