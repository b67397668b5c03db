"""Swap by `_target_`: build what a composed mapping names, from this package and nowhere else.

A configuration may come with somebody's checkpoint and must not choose code to run.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from s2robot.errors import S2RobotError

PACKAGE = "s2robot"
SCALARS = {"int": (int,), "float": (float, int), "str": (str,), "bool": (bool,), "None": (type(None),)}


def instantiate(config: Mapping[str, Any], *args: Any) -> Any:
    """Call `config["_target_"]` with `args` and the other keys of `config`.

    Raises S2RobotError for a target outside this package, for keys that the target does not know, naming those it
    does, for values that have to be given ("???"), and for those of another type where a scalar is annotated.
    """
    build = resolve_target(config.get("_target_"))
    keys = {str(key): value for key, value in config.items() if key != "_target_"}
    missing = [key for key, value in keys.items() if isinstance(value, str) and value == "???"]
    if missing:
        raise S2RobotError(f"{build.__name__} needs a value for {', '.join(missing)}; give {missing[0]}=...")
    signature = inspect.signature(build)
    try:
        signature.bind(*args, **keys)
    except TypeError as error:
        allowed = ", ".join(signature.parameters)
        raise S2RobotError(f"configuration of {build.__name__}: {error}; keys are {allowed}") from error
    for key, value in keys.items():
        if key in signature.parameters:  # and not one of **kwargs
            _require_type(f"configuration of {build.__name__}: {key}", value, signature.parameters[key].annotation)
    return build(*args, **keys)


def _require_type(what: str, value: Any, annotation: Any) -> None:
    """Of scalars and their unions; annotations are strings in this package (PEP 563)."""
    names = str(annotation).split(" | ")
    if not set(names) <= SCALARS.keys():
        return
    accepted = {kind for name in names for kind in SCALARS[name]}
    if type(value) not in accepted:
        raise S2RobotError(f"{what}={value!r} is a {type(value).__name__}; allowed: {' or '.join(names)}")


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
