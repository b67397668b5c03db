"""Backbones in the Hugging Face layout: config.json, *.safetensors and preprocessor_config.json in one folder.

Any vision model that transformers' AutoModel knows, as published: ViT, ViT-MAE, DINOv2 and v3, CLIP and SigLIP (their
vision towers), ConvNeXt. Features are the `last_hidden_state`. Only safetensors are read, and no code of a folder.

Dims: b images, s side (px), n tokens with prefix tokens first, c channels, h w cells of a map.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from s2robot.encoders.backbone import Backbone
from s2robot.encoders.encoder import MultiscaleEncoder
from s2robot.errors import DamagedError, S2RobotError, unknown_name
from s2robot.storage import read_json

EMBEDDED = "embedded:"
WEIGHTS_FOLDER = Path(__file__).parent / "weights"
# Models of text and images: only the vision tower is built, its text weights are never read.
VISION_TOWERS = {"clip", "siglip"}
# Convolutional networks that take any size, such as ResNet, do not say at which they were trained.
IMAGENET_SIDE = 224
# Entries of config.json that say who wrote it, not what the model computes.
NOT_ARCHITECTURE = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"}


def huggingface_encoder(
    path: str,
    sizes: Sequence[int],
    tile: int | None = None,
    grid: Sequence[int] | None = None,
    weights: Literal["pretrained", "random"] = "pretrained",
    seed: int = 0,
    square: Literal["crop", "pad"] = "crop",
    dtype: str = "auto",
    device: str = "auto",
    reference: bool = False,
) -> MultiscaleEncoder:
    """What the YAMLs of configs/encoder name as their `_target_`: a MultiscaleEncoder on `huggingface_backbone`."""
    backbone = huggingface_backbone(path, weights, seed)
    return MultiscaleEncoder(backbone, sizes, tile, grid, square, dtype, device, reference)


def huggingface_backbone(path: str, weights: Literal["pretrained", "random"] = "pretrained", seed: int = 0) -> Backbone:
    """The vision model at `path`: a local folder, `embedded:NAME` for one in this package, or a hub id.

    `weights="random"` needs config.json and preprocessor_config.json alone and initialises the architecture from
    `seed`. A hub id is taken from the local cache, or downloaded where there is a network. Raises S2RobotError with
    what to place where when files are missing, when weights do not cover the model, or when there is no network.
    """
    if weights not in ("pretrained", "random"):
        raise S2RobotError(f"weights={weights!r}; allowed: pretrained, random")
    folder = find_folder(path, need_weights=weights == "pretrained")
    raw = read_json(folder / "config.json")
    mean, std = _mean_std(folder)
    with _quiet():
        config = _vision_config(folder)
        model = _random_model(config, seed) if weights == "random" else _pretrained_model(config, folder)
    if model.main_input_name != "pixel_values":
        raise S2RobotError(
            f"{path} is a {config.model_type!r}, not a vision model: its input is {model.main_input_name}"
        )
    tokens = LastHiddenState(model)
    side = getattr(config, "image_size", IMAGENET_SIDE)
    side = side if isinstance(side, int) else max(side)
    patch, prefix_tokens = _geometry(tokens, side, getattr(config, "patch_size", None))
    architecture = {key: value for key, value in raw.items() if key not in NOT_ARCHITECTURE}
    name = path.removeprefix(EMBEDDED) if weights == "pretrained" else f"{path.removeprefix(EMBEDDED)}-random{seed}"
    return Backbone(tokens, name, patch, prefix_tokens, mean, std, side, architecture)


class LastHiddenState(nn.Module):
    """A transformers model as a function of pixels: position embeddings interpolated, nothing masked or shuffled."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.patch: int = getattr(model.config, "patch_size", 1)
        self.interpolates = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b n c"] | Float[Tensor, "b c h w"]:
        """(b, n, c) of a transformer, (b, c, h, w) of a convolutional network."""
        options: dict[str, Any] = {"interpolate_pos_encoding": True} if self.interpolates else {}
        if isinstance(self.model, transformers.ViTMAEModel):
            # MAE orders its tokens by this noise even when it masks none: rising noise leaves them in place.
            patches = (images.shape[-1] // self.patch) ** 2
            options["noise"] = torch.arange(patches, device=images.device).expand(len(images), -1)
        return self.model(pixel_values=images, **options).last_hidden_state


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
    needed = ["config.json", *(["*.safetensors"] if need_weights else [])]
    missing = [pattern for pattern in needed if not any(folder.glob(pattern))]
    if missing:
        raise S2RobotError(
            f"{folder} lacks {' and '.join(missing)}; a model folder holds config.json, model.safetensors and "
            "preprocessor_config.json (pickled weights such as pytorch_model.bin are not read: convert them)"
        )
    return folder


def _from_hub(path: str, need_weights: bool) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    files = ["config.json", "preprocessor_config.json", *(["*.safetensors"] if need_weights else [])]
    try:
        return Path(huggingface_hub.snapshot_download(path, allow_patterns=files))
    except (OSError, HFValidationError, HfHubHTTPError) as error:
        raise S2RobotError(
            f"{path!r} is neither a folder here nor a model that the hub gave ({type(error).__name__}); place its "
            "config.json, model.safetensors and preprocessor_config.json in a folder and give that folder as path"
        ) from error


def _mean_std(folder: Path) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std on the scale [0, 1] from preprocessor_config.json; 0 and 1 where it does not normalise."""
    file = folder / "preprocessor_config.json"
    if not file.exists():
        raise S2RobotError(f'{folder} lacks {file.name}; write one with "image_mean" and "image_std" (RGB, 0 to 1)')
    settings = read_json(file)
    if not settings.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    try:
        mean, std = tuple(settings["image_mean"]), tuple(settings["image_std"])
    except (KeyError, TypeError) as error:
        raise S2RobotError(f'{file} holds no "image_mean" and "image_std"; add both (RGB, 0 to 1)') from error
    return mean, std


def _vision_config(folder: Path) -> Any:
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, KeyError) as error:
        raise S2RobotError(f"transformers {transformers.__version__} does not know the model of {folder}") from error
    config = config.vision_config if config.model_type in VISION_TOWERS else config
    if config.model_type == "siglip_vision_model":
        config.vision_use_head = False  # attention pooling that nothing here reads
    if config.model_type == "vit_mae":
        config.mask_ratio = 0.0
    return config


def _options(config: Any) -> dict[str, Any]:
    """ViT's pooler is dead weight here, and absent from most checkpoints."""
    return {"add_pooling_layer": False} if config.model_type == "vit" else {}


def _pretrained_model(config: Any, folder: Path) -> nn.Module:
    try:
        model, loaded = transformers.AutoModel.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **_options(config),
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise DamagedError(f"{folder}: the weights do not load ({str(error).splitlines()[0]})") from error
    # transformers fills what is absent with random values and only warns: features would be noise.
    wrong = sorted(str(key) for key in [*loaded["missing_keys"], *loaded["mismatched_keys"]])
    if wrong:
        raise DamagedError(
            f"{folder}: the weights lack or misshape {len(wrong)} tensors of config.json, first {wrong[0]}"
        )
    return model


def _random_model(config: Any, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.AutoModel.from_config(config, dtype=torch.float32, **_options(config))


def _geometry(model: LastHiddenState, side: int, patch: int | None) -> tuple[int, int]:
    """(px per cell, prefix tokens), read off one blank image: what is more than the grid of patches comes first."""
    model.eval()
    with torch.no_grad():
        out = model(torch.zeros(1, 3, side, side))
    if out.ndim == 4:
        return side // out.shape[-1], 0
    if patch and out.shape[1] >= (side // patch) ** 2:
        return patch, out.shape[1] - (side // patch) ** 2
    return side // math.isqrt(out.shape[1]), 0  # hierarchical transformers merge their first patches


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no table of unused text weights: what matters is checked and raised instead."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
