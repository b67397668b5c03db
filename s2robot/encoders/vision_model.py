"""A vision model of the transformers library as a function from pixels to tokens: built, filled with weights, measured.

Dims: b images, s side (px), n tokens with prefix tokens first, c channels, h w cells of a map.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Float
from torch import Tensor, nn

from s2robot.encoders.backbone import Backbone
from s2robot.encoders.cost import READS_VALUES, shapes_alone
from s2robot.encoders.state_file import LOAD_ERRORS, first_line, load_reason
from s2robot.errors import DamagedError, S2RobotError, some
from s2robot.storage import sha256_file

# Convolutional networks that take any size, such as ResNet, do not say at which they were trained.
IMAGENET_SIDE = 224
# What transformers raises for a configuration that it cannot build.
CONFIG_ERRORS = (TypeError, ValueError, LookupError, AttributeError, StrictDataclassError)
# Names beside a vision model's own in published weights: of a text tower, of heads, of a decoder, of poolers.
OTHERS = (
    r"^text_model\.", r"^logit_(scale|bias)", r"_projection\.", r"position_ids$", r"^decoder", r"(^|\.)mask_token$",
    r"(^|\.)pooler\.", r"(^|[._])classifier", r"(^|\.)head\.", r"^lm_head", r"num_batches_tracked$",
    r"relative_position_index$",
)  # fmt: skip
LISTED = 5  # names of tensors in a message
INTERPOLATE = "interpolate_pos_encoding"  # an option of many models, and the method of their embeddings behind it


class VisionTokens(nn.Module):
    """A transformers model as a function of pixels: position embeddings interpolated, nothing masked or shuffled.

    `layer` is -1 for the model's own last hidden state (after its final norm, where it has one), or -2, -3, ... for
    what the block before gives; the blocks after it are taken out, since they would only cost. Interpolated position
    embeddings are kept per side: the weights are frozen, so each is computed once.
    """

    def __init__(self, model: nn.Module, layer: int = -1) -> None:
        super().__init__()
        self.model = model
        self.layer = layer
        self._published_attention = getattr(model.config, "_attn_implementation", None)
        self.patch: int = getattr(model.config, "patch_size", 1)
        self.interpolates = INTERPOLATE in inspect.signature(model.forward).parameters
        _leave_out(model, -1 - layer)
        for module in model.modules():
            if _rule_of(module) == ["self", "embeddings", "height", "width"]:
                setattr(module, INTERPOLATE, _Remembered(module))

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b n c"] | Float[Tensor, "b c h w"]:
        """(b, n, c) of a transformer, (b, c, h, w) of a convolutional network."""
        options: dict[str, Any] = {INTERPOLATE: True} if self.interpolates else {}
        if isinstance(self.model, transformers.ViTMAEModel):
            # MAE orders its tokens by this noise even when it masks none: rising noise leaves them in place.
            patches = (images.shape[-1] // self.patch) ** 2
            options["noise"] = torch.arange(patches, device=images.device).expand(len(images), -1)
        if self.layer == -1:
            return self.model(pixel_values=images, **options).last_hidden_state
        return self.model(pixel_values=images, output_hidden_states=True, **options).hidden_states[-1]

    def choose_attention(self, plain: bool) -> None:
        """By plain products, or by the kernel that the model came with; the same but for rounding."""
        if isinstance(self.model, transformers.PreTrainedModel):
            self.model.set_attn_implementation("eager" if plain else self._published_attention)


@dataclass(frozen=True)
class Loaded:
    """A model with its weights, how its publisher normalises images, and the `files` that the weights came from."""

    model: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    architecture: Mapping[str, Any]
    files: Sequence[Path] = ()

    def backbone(self, name: str, layer: int = -1, licence: str = "") -> Backbone:
        """Frozen, giving the tokens of `layer`."""
        tokens = VisionTokens(self.model, layer)
        side, patch, prefix_tokens = geometry(tokens)
        architecture = {**self.architecture, **({} if layer == -1 else {"layer": layer})}
        origin = {"licence": licence, "files": {file.name: sha256_file(file) for file in self.files}}
        backbone = Backbone(tokens, name, patch, prefix_tokens, self.mean, self.std, side, architecture, origin)
        if not self.files:  # before any cast
            backbone.origin["drawn"] = backbone.weights_sha256()
        return backbone


class Geometry(NamedTuple):
    """`side` that the model was trained at and `patch` side of one cell, both in px; class and register tokens."""

    side: int
    patch: int
    prefix_tokens: int


def check_weights_kind(weights: str) -> str:
    """`weights` itself. Raises S2RobotError unless it is pretrained or random."""
    if weights not in ("pretrained", "random"):
        raise S2RobotError(f"weights={weights!r}; allowed: pretrained, random")
    return weights


def model_config(settings: Mapping[str, Any]) -> Any:
    """The configuration that `model_type` and the other entries of `settings` describe. Raises S2RobotError."""
    kind = settings.get("model_type")
    try:
        config = transformers.AutoConfig.for_model(**settings)
    except CONFIG_ERRORS as error:
        raise S2RobotError(
            f"transformers {transformers.__version__} makes no model {kind!r} of these settings ({first_line(error)})"
        ) from error
    unknown = sorted(set(settings) - set(type(config)().to_dict()) - {"model_type"})
    if unknown:
        raise S2RobotError(f"a model {kind!r} has no settings {', '.join(unknown)}")
    return prepared(config)


def prepared(config: Any) -> Any:
    """The configuration with what nobody reads switched off."""
    if config.model_type == "siglip_vision_model":
        config.vision_use_head = False  # attention pooling
    if config.model_type == "vit_mae":
        config.mask_ratio = 0.0
    return config


def random_model(config: Any, seed: int) -> nn.Module:
    """The architecture as it is initialised from `seed`; the global generator stays as it was."""
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return transformers.AutoModel.from_config(config, dtype=torch.float32, **_options(config))
    except CONFIG_ERRORS as error:
        raise S2RobotError(
            f"no {config.model_type!r} can be built of its configuration ({first_line(error)})"
        ) from error


def pretrained_model(
    config: Any, source: Path, state: Mapping[str, Tensor] | None = None, others: Sequence[str] | None = None
) -> nn.Module:
    """The architecture with the weights of the folder `source`, or with `state`, which was read from `source`.

    `others` are patterns of names that may be there beside the vision model's: by default a text tower, a decoder,
    heads and poolers. Raises DamagedError where weights do not load, do not cover the model, have tensors that it does
    not, do not fit it, or are not finite.
    """
    if type(config) not in transformers.MODEL_MAPPING:
        raise S2RobotError(f"{source} is a {config.model_type!r}, of which transformers has no plain model")
    given = {"state_dict": dict(state)} if state is not None else {"local_files_only": True}
    try:
        with quiet():
            model, loaded = transformers.MODEL_MAPPING[type(config)].from_pretrained(
                None if state is not None else source,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **given,
                **_options(config),
            )
    except LOAD_ERRORS as error:
        raise DamagedError(f"{source}: the weights do not load: {load_reason(error)}") from error
    # transformers fills what is absent with random values and only warns: features would be noise.
    allowed = re.compile("|".join(OTHERS if others is None else others) or "$^")
    misshapen = [f"{name} is {tuple(came)}, not {tuple(want)}" for name, came, want in loaded["mismatched_keys"]]
    unexpected = [name for name in loaded["unexpected_keys"] if not allowed.search(name)]
    _require_none(
        source,
        {
            "lack": loaded["missing_keys"],
            "have other shapes than the architecture:": misshapen,
            "have what the architecture does not:": unexpected,
        },
    )
    broken = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    _require_none(source, {"are NaN or infinite in": broken})
    return model


def geometry(tokens: VisionTokens) -> Geometry:
    """Read off one blank image, on shapes alone: what is more than the grid of patches comes first."""
    config = tokens.model.config
    side = _largest(getattr(config, "image_size", IMAGENET_SIDE))
    tokens.eval()
    with torch.no_grad():
        blank = torch.zeros(1, 3, side, side)
        try:
            with shapes_alone(tokens, blank) as call:
                shape = call().shape
        except READS_VALUES:
            shape = tokens(blank).shape
    if len(shape) == 4:
        return Geometry(side, side // shape[-1], 0)
    patch = _largest(getattr(config, "patch_size", None) or 0)
    if patch and shape[1] >= (side // patch) ** 2:
        return Geometry(side, patch, shape[1] - (side // patch) ** 2)
    return Geometry(side, side // math.isqrt(shape[1]), 0)  # hierarchical transformers merge their first patches


def _largest(side: int | Sequence[int]) -> int:
    """transformers takes one number or two."""
    return side if isinstance(side, int) else max(side)


def _leave_out(model: Any, blocks: int) -> None:
    """Take the last `blocks` blocks out of a transformer."""
    if blocks <= 0:
        return
    owner = getattr(model, "encoder", model)
    layers = getattr(owner, "layers", ())
    if blocks >= len(layers):
        kind = model.config.model_type
        raise S2RobotError(f"layer={-1 - blocks}: the blocks of this {kind!r} are {len(layers) or 'not known here'}")
    owner.layers = layers[:-blocks]


def _rule_of(module: nn.Module) -> list[str]:
    """Parameters of the module's method that interpolates its position embeddings; none where it has none."""
    method = getattr(type(module), INTERPOLATE, None)
    return [] if method is None else list(inspect.signature(method).parameters)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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


def _options(config: Any) -> dict[str, Any]:
    """ViT's pooler is dead weight here, and absent from most checkpoints."""
    return {"add_pooling_layer": False} if config.model_type == "vit" else {}


def _require_none(source: Path, faults: Mapping[str, Iterable[Any]]) -> None:
    """Raise DamagedError with the tensors of every fault, under the names that transformers gives them."""
    found = {what: sorted(map(str, names)) for what, names in faults.items()}
    told = [f"{what} {some(names, LISTED)} ({len(names)} tensors)" for what, names in found.items() if names]
    if told:
        raise DamagedError(
            f"{source}: the weights {' and '.join(told)}, as transformers names them; is it the file of another model, "
            "or damaged?"
        )


class _Remembered:
    """`module.interpolate_pos_encoding`, computed once per size: it depends on that and the frozen weights alone."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.kept: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """Only shape, dtype and device of `embeddings` matter."""
        compute = functools.partial(getattr(type(self.module), INTERPOLATE), self.module, embeddings, height, width)
        trained = torch.is_grad_enabled() or any(weight.requires_grad for weight in self.module.parameters())
        if trained or type(embeddings) is not Tensor:  # or its operations are counted
            return compute()
        key = height, width, embeddings.dtype, embeddings.device
        if key not in self.kept:
            self.kept[key] = compute()
        return self.kept[key]
