"""Encoders by name: every YAML in configs/encoder is one, and its `_target_` says who builds it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from s2robot.encoders.interface import Encoder
from s2robot.errors import S2RobotError, unknown_name
from s2robot.targets import PACKAGE, instantiate

RESERVED = ("constant", "episodes")  # the predictor that sees nothing; the folder of a task's demonstrations


def encoder_names() -> list[str]:
    """The catalogue: names of the YAMLs in configs/encoder."""
    folder = resources.files(f"{PACKAGE}.configs") / "encoder"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_encoder(
    name_or_config: str | Mapping[str, Any] | DictConfig, device: str = "auto", dtype: str = "auto", **overrides: Any
) -> Encoder:
    """The encoder of a name, or of a mapping with a `_target_`. `overrides` replace or add single keys.

    `device` and `dtype` override what the mapping says unless they are "auto".
    Raises S2RobotError on an unknown name or key, on a value that must be given and is not, and on a `_target_`
    outside this package: a configuration may come with somebody's checkpoint, and must not choose code to run.

        load_encoder("s2")(images).tokens
        load_encoder("hf", path="facebook/dinov2-small", sizes=[224, 448])
    """
    config = encoder_config(name_or_config) | overrides
    for key, value in (("device", device), ("dtype", dtype)):
        if value != "auto":
            config[key] = value
    encoder: Encoder = instantiate(config)
    return encoder


def named_encoders(entries: Iterable[str | Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name -> configuration. An entry is a name of the catalogue, or an encoder of it under another name, some keys
    replaced: `{"s2_mine": {"encoder": "s2", "path": "outputs/mine/weights"}}`.

    Raises S2RobotError on an unknown name, on one given twice, on a new one that is no plain word (it becomes part of
    paths), and on an entry of another form.
    """
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if isinstance(entry, str):
            name, config = entry, encoder_config(entry)
        else:
            name, config = _renamed(entry)
        if name in found:
            raise S2RobotError(f"encoder {name!r} is listed twice; give one of them another name")
        found[name] = config
    return found


def _renamed(entry: Any) -> tuple[str, dict[str, Any]]:
    content = next(iter(entry.values())) if isinstance(entry, Mapping) and len(entry) == 1 else None
    if not isinstance(content, Mapping) or not isinstance(content.get("encoder"), str):
        raise S2RobotError(f"{entry!r} is no encoder; give a name, or {{new_name: {{encoder: name, key: value}}}}")
    changes = {str(key): value for key, value in content.items() if key != "encoder"}
    name = str(next(iter(entry)))
    if not re.fullmatch(r"\w[\w.@+-]*", name) or name in RESERVED:
        raise S2RobotError(f"{name!r} names no encoder: letters, digits, _ . @ + - and not {' or '.join(RESERVED)}")
    return name, encoder_config(content["encoder"]) | changes


def encoder_config(name_or_config: str | Mapping[str, Any] | DictConfig) -> dict[str, Any]:
    """The plain mapping behind a name, or of a composed configuration. Values that must be given read "???"."""
    if isinstance(name_or_config, str):
        if name_or_config not in encoder_names():
            raise unknown_name("encoder", name_or_config, encoder_names())
        file = resources.files(f"{PACKAGE}.configs") / "encoder" / f"{name_or_config}.yaml"
        return dict(yaml.safe_load(file.read_text()))
    plain = (
        OmegaConf.to_container(name_or_config, resolve=True) if OmegaConf.is_config(name_or_config) else name_or_config
    )
    if not isinstance(plain, Mapping):
        raise S2RobotError(f"{plain!r} is not an encoder; give a name or a mapping with a _target_")
    return {str(key): value for key, value in plain.items()}
