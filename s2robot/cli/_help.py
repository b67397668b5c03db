"""The texts of `--help`, made from the command modules and from the YAML files with their comments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from s2robot import __version__

_OPTIONS = """options:
  -h, --help     this text; after a command, its verbs, keys and groups
  -v, --verbose  a traceback with an error
  --version      the version"""


def overview(commands: Mapping[str, str]) -> str:
    """The list of commands, one line each."""
    return "\n".join(
        [
            f"s2robot {__version__}: manipulation policies on frozen multi-scale visual features",
            "",
            "usage: s2robot <command> [<verb>] key=value ...",
            "",
            "commands:",
            *_columns([(name, text) for name, text in commands.items()]),
            "",
            _OPTIONS,
            "",
            "`s2robot <command> --help` shows what a command takes.",
        ]
    )


def of_command(name: str, text: str, verbs: Mapping[str, str], verb: str, overrides: Sequence[str]) -> str:
    """One command: verbs, keys with their values under `overrides`, groups with their choices.

    Raises S2RobotError for overrides that do not compose.
    """
    from s2robot import configs

    lines = [f"s2robot {name}{' ' + verb if verb else ''}: {verbs[verb] if verb else text}", ""]
    shown_verb = f" {verb}" if verb else " <verb>" if verbs else ""
    has_keys = name in configs.names()
    lines += [f"usage: s2robot {name}{shown_verb}{' key=value ...' if has_keys else ''}"]
    if verbs and not verb:
        lines += ["", "verbs:", *_columns(list(verbs.items()))]
    if has_keys:
        lines += _keys_and_groups(name, overrides)
    return "\n".join([*lines, "", _OPTIONS])


def _keys_and_groups(name: str, overrides: Sequence[str]) -> list[str]:
    from omegaconf import OmegaConf

    from s2robot import configs

    config, choices = configs.compose_with_choices(name, overrides)
    content: Any = OmegaConf.to_container(config)
    comments = _comments(name)
    top = {key: value for key, value in content.items() if key not in choices}
    lines = ["", "keys (??? must be given):"]
    lines += _columns([(f"{key}={_shown(value)}", comments.get(key.split(".")[0], "")) for key, value in _leaves(top)])
    for group, choice in choices.items():
        lines += ["", f"{group}={_shown(choice)}", *_columns([("choices:", " ".join(configs.names(group)))])]
        nested = content.get(group.rpartition("@")[2])
        if isinstance(nested, dict):
            lines += _columns([(f"{group}.{key}={_shown(value)}", "") for key, value in _leaves(nested)])
    return lines


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if key.startswith("_"):  # _target_: what a choice is made of, not a setting
            continue
        whole = f"{prefix}{key}"
        found += _leaves(value, f"{whole}.") if isinstance(value, Mapping) and value else [(whole, value)]
    return found


def _shown(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(_shown(v) for v in value)}]"
    return str(value)


def _comments(name: str) -> dict[str, str]:
    """Trailing comments of a command's top-level keys: the YAML file is the only place where a key is described."""
    text = resources.files("s2robot.configs").joinpath(f"{name}.yaml").read_text()
    return dict(re.findall(r"^(\w+):(?:.*?)\s+#\s*(.+)$", text, flags=re.MULTILINE))


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(left) for left, _ in rows if len(left) <= 34), default=0)
    return [f"  {left:<{width}}  {right}".rstrip() for left, right in rows]
