"""Frozen multi-scale vision encoders. Names load on first use, so that importing the package costs nothing."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Backbone": "backbone",
    "BlindEncoder": "blind",
    "Cost": "cost",
    "Encoder": "interface",
    "Features": "interface",
    "MultiscaleEncoder": "encoder",
    "count_gmac": "cost",
    "encoder_names": "load",
    "huggingface_backbone": "huggingface",
    "load_encoder": "load",
    "match_sizes": "match",
    "matched": "match",
    "multiscale_forward": "multiscale",
    "named_encoders": "load",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
