"""Files of weights: safetensors, or PyTorch's read with `weights_only`, so that they cannot run code."""

from __future__ import annotations

import argparse
import struct
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from s2robot.errors import DamagedError

# What torch, safetensors and transformers raise for a file that is empty, truncated, no weights at all, or runs code.
LOAD_ERRORS = (
    OSError, EOFError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, struct.error, UnpicklingError,
    SafetensorError,
)  # fmt: skip


def first_line(error: BaseException) -> str:
    """Of an error's message, or its type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def read_state(file: Path, inside: str = "") -> dict[str, Tensor]:
    """The named tensors of a file, at its top or under the key `inside`.

    Raises DamagedError where the file is neither safetensors nor PyTorch's, is truncated, or holds something else.
    """
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        # Command lines are all that training scripts put beside the tensors; a Namespace is a plain record.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except LOAD_ERRORS as error:
        raise DamagedError(f"{file} does not load as weights ({first_line(error)}); get it again") from error
    state = content.get(inside, content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DamagedError(f"{file} holds no named tensors, at its top or under {inside!r}; is it a checkpoint's file?")
    return dict(state)
