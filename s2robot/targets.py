"""Swap by `_target_`: build what a composed mapping names, from this package and nowhere else.

A configuration may come with somebody's checkpoint and must not choose code to run.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from s2robot.errors import S2RobotError

PACKAGE = "s2robot"
SCALARS = {"int": (int,), "float": (float, int), "str": (str,), "bool": (bool,), "None": (type(None),)}
LISTS = {f"{of}[{kind}{more}]": kind for kind in SCALARS for of, more in (("Sequence", ""), ("tuple", ", ..."))}


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
    return call_checked(build, f"configuration of {build.__name__}", *args, **keys)


def call_checked(build: Any, what: str, /, *args: Any, **keys: Any) -> Any:
    """Call `build`, which `what` describes, with `args` and `keys`.

    Raises S2RobotError for keys that it does not know, naming those it does, and for values of another type where a
    scalar or a list of them is annotated.
    """
    signature = inspect.signature(build)
    try:
        signature.bind(*args, **keys)
    except TypeError as error:
        allowed = ", ".join(signature.parameters)
        raise S2RobotError(f"{what}: {error}; keys are {allowed}") from error
    for key, value in keys.items():
        if key in signature.parameters:  # and not one of **kwargs
            _require_type(f"{what}: {key}", value, signature.parameters[key].annotation)
    return build(*args, **keys)


def _require_type(what: str, value: Any, annotation: Any) -> None:
    """Of scalars, lists of them and their unions; annotations are strings in this package (PEP 563)."""
    names = str(annotation).split(" | ")
    if not set(names) <= SCALARS.keys() | LISTS.keys() or any(_is(value, name) for name in names):
        return
    allowed = " or ".join(f"a list of {LISTS[name]}" if name in LISTS else name for name in names)
    raise S2RobotError(f"{what}={value!r} is a {type(value).__name__}; allowed: {allowed}")


def _is(value: Any, name: str) -> bool:
    if name in LISTS:
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        return listed and all(_is(one, LISTS[name]) for one in value)
    return type(value) in SCALARS[name]


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
