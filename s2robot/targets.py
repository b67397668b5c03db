"""Swap by `_target_`: build what a composed mapping names, from this package and nowhere else.

A configuration may come with somebody's checkpoint and must not choose code to run.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from s2robot.errors import S2RobotError

PACKAGE = "s2robot"


def instantiate(config: Mapping[str, Any], *args: Any, **overrides: Any) -> Any:
    """Call `config["_target_"]` with the other keys of `config`, replaced or extended by `overrides`.

    Raises S2RobotError for a target outside this package, for keys that the target does not know and for values that
    had to be given.
    """
    keys = {str(k): v for k, v in config.items() if k != "_target_"} | overrides
    missing = [key for key, value in keys.items() if isinstance(value, str) and value == "???"]
    if missing:
        raise S2RobotError(f"a value is needed for {', '.join(missing)}, e.g. {missing[0]}=...")
    build = resolve_target(config.get("_target_"))
    try:
        return build(*args, **keys)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise S2RobotError(f"configuration of {config.get('_target_')}: {error}") from error


def resolve_target(target: Any) -> Any:
    """The class or function of this package that `target` names. Raises S2RobotError for anything else.

    The object must also have been defined in this package: `s2robot.storage.os` is reachable, and is refused.
    """
    if not isinstance(target, str) or not target.startswith(f"{PACKAGE}."):
        raise S2RobotError(f"_target_={target!r}; allowed: a class or function under {PACKAGE}.")
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise S2RobotError(f"_target_={target!r} cannot be found ({error})") from error
    if not callable(found) or not str(getattr(found, "__module__", "")).startswith(f"{PACKAGE}."):
        raise S2RobotError(f"_target_={target!r} was not defined in {PACKAGE}; allowed: its own classes and functions")
    return found
