"""A frozen vision model together with what one must know to feed it: patch, prefix tokens, mean, std.

Dims: b images (here: tiles), s side (px), n tokens with prefix tokens first, c channels, h w cells of a map.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2robot.errors import S2RobotError

FEW_TOKENS = 256  # of a tile, so that the matrices of attention stay small
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@runtime_checkable
class ChoosesAttention(Protocol):
    """A model whose attention can be computed in two ways."""

    def choose_attention(self, plain: bool) -> None:
        """By plain products, or by the kernel that the model came with."""
        ...


class Backbone(nn.Module):
    """Any model `(b, 3, s, s) -> (b, n, c)` or `(b, c, h, w)`, frozen.

    `patch` is the side in px of one cell of the map (16 for ViT-B/16, 32 for ConvNeXt); `num_prefix_tokens` class and
    register tokens come first; `mean` and `std` are per channel on the scale [0, 1]; `image_size` is the side that the
    model was trained at. `architecture` is JSON that, with the weights, says what the model computes: it enters
    fingerprints, so give one to a callable that is not an nn.Module, whose weights nobody can see. `origin`
    is the licence of the weights and where they came from: the sha256 of their files or, of random ones, of what was
    drawn.

    Input and output are float32 whatever the model computes in.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        name: str,
        patch: int = 1,
        num_prefix_tokens: int = 0,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        image_size: int | None = None,
        architecture: Mapping[str, Any] | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise S2RobotError(
                f"mean={list(mean)}, std={list(std)}; give three values each, RGB on the scale [0, 1], std above 0"
            )
        self.model = model
        self.name = name
        self.patch = patch
        self.num_prefix_tokens = num_prefix_tokens
        self.mean = tuple(map(float, mean))
        self.std = tuple(map(float, std))
        self.image_size = image_size
        self.architecture = dict(architecture or {"name": name})
        self.origin = dict(origin or {})
        self.dtype = torch.float32
        self.requires_grad_(False)
        super().train(False)

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b n c"] | Float[Tensor, "b c h w"]:
        """Normalised images to features, without gradients."""
        with torch.no_grad():
            return self.model(images.to(self.dtype)).float()

    def train(self, mode: bool = True) -> Backbone:
        """Does nothing: a frozen model keeps its dropout and its running statistics off."""
        return self

    def cast(self, dtype: torch.dtype) -> Backbone:
        """Compute in `dtype` from now on. Going down and up again does not bring the lost bits back."""
        self.dtype = dtype
        return self.to(dtype)

    def choose_attention(self, tile: int, published: bool) -> None:
        """For tiles of `tile` px on the device and in the dtype that it computes in now: attention by plain products
        where they are faster, or as published. Models that offer no choice stay as they are.

        In bfloat16 on the CPU plain products made a pass 3 to 13 % faster at 50 to 197 tokens (measured); in float32
        the fused kernel is up to 8 % faster, and for many tokens it saves memory.
        """
        if isinstance(self.model, ChoosesAttention):
            on_cpu = all(p.device.type == "cpu" for p in self.parameters())
            short = (tile // self.patch) ** 2 <= FEW_TOKENS
            self.model.choose_attention(plain=on_cpu and short and self.dtype == torch.bfloat16 and not published)

    def num_params(self) -> int:
        """Number of weights; 0 for a callable that is not an nn.Module."""
        return sum(p.numel() for p in self.parameters())

    def weights_sha256(self) -> str:
        """Hash over the names, dtypes, shapes and bytes of all parameters and buffers as they are now."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def resolve_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises S2RobotError for CUDA where there is none."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise S2RobotError(f"device={device!r}; allowed: auto, cpu, cuda, cuda:N") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise S2RobotError(f"device={device!r}, but torch sees no GPU; use device=cpu or device=auto")
    return resolved


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the processor multiplies it natively (CUDA, AVX512-BF16, AMX), else float32."""
    if dtype == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if native else torch.float32
    if dtype not in DTYPES:
        raise S2RobotError(f"dtype={dtype!r}; allowed: auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]
