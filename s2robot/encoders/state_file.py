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


# What a file of another kind begins with; what torch writes begins otherwise.
OTHER_KINDS = {
    b"<": "it is a web page",
    b"version https://git-lfs": "it is a Git LFS pointer: fetch the file itself with `git lfs pull`",
}


def first_line(error: BaseException) -> str:
    """Of an error's message, or its type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def load_reason(error: BaseException) -> str:
    """Why weights did not load. torch's own text for what `weights_only` refuses advises to load it without."""
    if "weights_only" in str(error) or "Weights only" in str(error):
        return "it holds more than tensors, or is damaged; what could run code is never loaded"
    return first_line(error)


def read_state(file: Path, inside: str = "") -> dict[str, Tensor]:
    """The named tensors of a file, at its top or under the key `inside`; its content counts, not its suffix.

    Raises DamagedError where the file is neither safetensors nor PyTorch's, is truncated, or holds something else.
    """
    begin = b""
    try:
        with open(file, "rb") as opened:
            begin = opened.read(32)
            if begin[8:9] == b"{":  # eight bytes of length, then a header of JSON
                return safetensors.torch.load_file(file)
            opened.seek(0)  # not by its path, whose suffix torch would go by
            # Command lines are all that training scripts put beside the tensors; a Namespace is a plain record.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(opened, map_location="cpu", weights_only=True)
    except LOAD_ERRORS as error:
        other = next((what for start, what in OTHER_KINDS.items() if begin.startswith(start)), None)
        raise DamagedError(f"{file} does not load as weights: {other or load_reason(error)}; get it again") from error
    state = content.get(inside, content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DamagedError(f"{file} holds no named tensors, at its top or under {inside!r}; is it a checkpoint's file?")
    return dict(state)
