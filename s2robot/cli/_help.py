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
    file = configs.file_of(name, verb)
    lines += [f"usage: s2robot {name}{shown_verb}{' key=value ...' if file or verbs else ''}"]
    if verbs and not verb:
        lines += ["", "verbs:", *_columns(list(verbs.items()))]
    if file:
        lines += _keys_and_groups(file, overrides)
    return "\n".join([*lines, "", _OPTIONS])


def _keys_and_groups(name: str, overrides: Sequence[str]) -> list[str]:
    from omegaconf import OmegaConf

    from s2robot import configs

    config, choices = configs.compose_with_choices(name, overrides)
    content: Any = OmegaConf.to_container(config)
    top = {key: value for key, value in content.items() if key not in choices}
    comments = _comments(f"{name}.yaml")
    lines = ["", "keys (??? must be given):"]
    lines += _columns([(f"{key}={_shown(value)}", comments.get(key, "")) for key, value in _leaves(top)])
    for group, choice in choices.items():
        folder = group.partition("@")[0]
        lines += ["", f"{group}={_shown(choice)}, one of:"]
        lines += _columns([(other, _title(f"{folder}/{other}.yaml")) for other in configs.names(folder)])
        nested = content.get(group.rpartition("@")[2])
        if isinstance(nested, dict):
            comments = _comments(f"{folder}/{choice}.yaml")
            lines += _columns([(f"{group}.{k}={_shown(value)}", comments.get(k, "")) for k, value in _leaves(nested)])
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


def _comments(path: str) -> dict[str, str]:
    """Dotted key -> the comment that ends its line: the YAML file is the only place where a key is described."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for indent, key, comment in re.findall(
        r"^( *)(\w+):(?:(?!\s#).)*(?:\s+#\s*(.+))?$", _text(path), flags=re.MULTILINE
    ):
        parents = [(depth, name) for depth, name in parents if depth < len(indent)] + [(len(indent), key)]
        found[".".join(name for _, name in parents)] = comment
    return found


def _title(path: str) -> str:
    """The comment that a choice's file opens with; Hydra's own headers (`# @package`) are none."""
    titles = (line[1:].strip() for line in _text(path).splitlines() if line.startswith("#"))
    return next((title for title in titles if not title.startswith("@")), "")


def _text(path: str) -> str:
    """Of a file of this package; empty for one on the user's own search path."""
    file = resources.files("s2robot.configs").joinpath(path)
    return file.read_text() if file.is_file() else ""


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(left) for left, _ in rows if len(left) <= 34), default=0)
    return [f"  {left:<{width}}  {right}".rstrip() for left, right in rows]
