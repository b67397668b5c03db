"""Backbones in the Hugging Face layout: config.json, weights and preprocessor_config.json in one folder.

Any vision model that transformers' AutoModel knows, as published: ViT, ViT-MAE, DINOv2 and v3, CLIP and SigLIP (their
vision towers), ResNet, ConvNeXt. Pickled weights are read with `weights_only`; no code of a folder is run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import transformers

from s2robot.encoders.backbone import Backbone
from s2robot.encoders.card import Card
from s2robot.encoders.encoder import MultiscaleEncoder
from s2robot.encoders.hub import download
from s2robot.encoders.state_file import first_line, read_state
from s2robot.encoders.vision_model import (
    CONFIG_ERRORS,
    Loaded,
    check_weights_kind,
    model_config,
    prepared,
    pretrained_model,
    quiet,
    random_model,
)
from s2robot.errors import S2RobotError, unknown_name
from s2robot.storage import read_json

EMBEDDED = "embedded:"
WEIGHTS_FOLDER = Path(__file__).parent / "weights"
# Models of text and images: only the vision tower is built, its text weights are never read.
VISION_TOWERS = {"clip", "siglip"}
# What transformers reads, safe formats first: one file, or shards with their index.
WEIGHT_FILES = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)
# Entries of config.json that say who wrote it, not what the model computes.
NOT_ARCHITECTURE = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"}


def huggingface_encoder(
    path: str,
    sizes: Sequence[int],
    tile: int | None = None,
    grid: Sequence[int] | None = None,
    weights: Literal["pretrained", "random"] = "pretrained",
    seed: int = 0,
    card: Mapping[str, Any] | None = None,
    square: Literal["crop", "pad"] = "crop",
    dtype: str = "auto",
    device: str = "auto",
    reference: bool = False,
    resize_output_to_idx: int = 0,
) -> MultiscaleEncoder:
    """What the YAMLs of configs/encoder name as their `_target_`: a MultiscaleEncoder on `huggingface_backbone`."""
    backbone = huggingface_backbone(path, weights, seed, None if card is None else Card.parse(card))
    return MultiscaleEncoder(backbone, sizes, tile, grid, square, dtype, device, reference, resize_output_to_idx)


def huggingface_backbone(
    path: str, weights: Literal["pretrained", "random"] = "pretrained", seed: int = 0, card: Card | None = None
) -> Backbone:
    """The vision model at `path`: a local folder, `embedded:NAME` for one in this package, a hub id, or, where a `card`
    says the rest, a file of weights.

    `weights="random"` initialises the architecture from `seed`; it needs config.json and preprocessor_config.json, or
    nothing where there is a `card`. A hub id is taken from the local cache, or downloaded where there is a network.
    Raises S2RobotError with what to place where when files are missing or there is no network, MismatchError when
    the folder is not what the card says, DamagedError when weights do not load or do not cover the model.
    """
    file, random = Path(path).expanduser(), check_weights_kind(weights) == "random"
    if card is not None and random:
        loaded = Loaded(random_model(model_config(card.model), seed), card.mean, card.std, card.model)
    elif file.is_file():
        loaded = _from_file(file, card)
    else:
        loaded = _from_folder(find_folder(path, need_weights=not random), seed if random else None, card)
    name = path.removeprefix(EMBEDDED) + (f"-random{seed}" if random else "")
    return loaded.backbone(name) if card is None else loaded.backbone(name, card.layer, card.licence)


def _from_file(file: Path, card: Card | None) -> Loaded:
    if card is None:
        raise S2RobotError(
            f"{file} is a file of weights, which says neither architecture nor normalisation; give the folder with its "
            "config.json and preprocessor_config.json, or take an encoder of the catalogue"
        )
    model = pretrained_model(model_config(card.model), file, read_state(file))
    return Loaded(model, card.mean, card.std, card.model, [file])


def _from_folder(folder: Path, seed: int | None, card: Card | None) -> Loaded:
    """With the folder's weights, or random ones where there is a `seed`."""
    raw = read_json(folder / "config.json")
    config, (mean, std) = _vision_config(folder), _mean_std(folder)
    if card is not None:
        card.require(config, mean, std, folder)
    model = pretrained_model(config, folder) if seed is None else random_model(config, seed)
    if model.main_input_name != "pixel_values":
        raise S2RobotError(
            f"{folder} is a {config.model_type!r}, not a vision model: its input is {model.main_input_name}"
        )
    if card is None:
        architecture = {key: value for key, value in raw.items() if key not in NOT_ARCHITECTURE}
    else:  # as for its file of weights alone: the same model has one fingerprint
        architecture = dict(card.model)
    return Loaded(model, mean, std, architecture, _weight_files(folder) if seed is None else ())


def find_folder(path: str, need_weights: bool = True) -> Path:
    """The folder that `path` names, with the files in it checked. Raises S2RobotError saying what to place where."""
    if path.startswith(EMBEDDED):
        name = path.removeprefix(EMBEDDED)
        known = sorted(folder.parent.name for folder in WEIGHTS_FOLDER.glob("*/config.json"))
        if name not in known:
            raise unknown_name("embedded encoder", name, known)
        folder = WEIGHTS_FOLDER / name
    else:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            folder = _from_hub(path, need_weights)
    missing = [] if (folder / "config.json").exists() else ["config.json"]
    if need_weights and not _weight_files(folder):
        missing.append("model.safetensors or pytorch_model.bin")
    if missing:
        raise S2RobotError(
            f"{folder} lacks {' and '.join(missing)}; a model folder holds config.json, model.safetensors and "
            "preprocessor_config.json"
        )
    return folder


def _weight_files(folder: Path) -> list[Path]:
    """The files of the first kind of weights that is there."""
    for patterns in WEIGHT_FILES:
        found = [sorted(folder.glob(pattern)) for pattern in patterns]
        if all(found):
            return [file for files in found for file in files]
    return []


def _from_hub(path: str, need_weights: bool) -> Path:
    settings = ["config.json", "preprocessor_config.json"]
    kinds = WEIGHT_FILES if need_weights else ((),)
    for safe in (True, False):
        wanted = [pattern for kind in kinds for pattern in kind if pattern.startswith("model") == safe]
        folder = download(path, [*settings, *wanted])
        if not need_weights or _weight_files(folder):
            break
    return folder


def _mean_std(folder: Path) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std from preprocessor_config.json, brought to pixels from 0 to 1 where the publisher scales otherwise;
    0 and 1 where it does not normalise.
    """
    file = folder / "preprocessor_config.json"
    if not file.exists():
        raise S2RobotError(f'{folder} lacks {file.name}; write one with "image_mean" and "image_std" (RGB, 0 to 1)')
    settings = read_json(file)
    if not isinstance(settings, dict):
        raise S2RobotError(f"{file} is no mapping; it says how the publisher prepares an image")
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    if not isinstance(factor, int | float) or not factor > 0:
        raise S2RobotError(f'{file}: "rescale_factor" is {factor!r}; give what pixels of 0 to 255 are multiplied by')
    white = 255.0 * factor
    try:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if settings.get("do_normalize", True):
            mean, std = _rgb(settings["image_mean"]), _rgb(settings["image_std"])
    except (KeyError, TypeError, ValueError) as error:
        raise S2RobotError(f'{file} holds no "image_mean" and "image_std"; add both (RGB, 0 to 1)') from error
    return (mean, std) if math.isclose(white, 1.0) else (_rgb(mean, white), _rgb(std, white))


def _rgb(values: Iterable[float], over: float = 1.0) -> tuple[float, float, float]:
    red, green, blue = (float(value) / over for value in values)
    return red, green, blue


def _vision_config(folder: Path) -> Any:
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except CONFIG_ERRORS as error:
        raise S2RobotError(
            f"transformers {transformers.__version__} does not know the model of {folder} ({first_line(error)})"
        ) from error
    return prepared(config.vision_config if config.model_type in VISION_TOWERS else config)
