"""What figures were measured on, in words."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # as /proc/cpuinfo names them, x86 and ARM


def processor() -> str:
    """The processor's name, and by which instructions it multiplies bfloat16."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    bf16 = next((f"by {flag}" for flag in _BF16_FLAGS if flag in flags), "not supported")
    return f"{fields.get('model name') or platform.processor() or platform.machine()}, bfloat16 {bf16}"


def machine(device: torch.device) -> str:
    """Processor or GPU, and torch's version."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return f"{name}, torch {torch.__version__}"
