"""JSON and YAML from elsewhere into the dataclasses that describe it, every field of the declared type."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from s2robot.errors import S2RobotError

T = TypeVar("T")


def parse(kind: type[T], data: Any, what: str, remedy: str) -> T:
    """`data` (plain JSON types) as a `kind`, a dataclass, strictly: a text is no number, and neither is true.

    Raises S2RobotError naming the first field that is wrong.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(data), strict=True)  # type: ignore[arg-type]
    except (ValidationError, RecursionError, TypeError) as error:
        raise S2RobotError(f"{what}: {_first(error)}; {remedy}") from error


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    kind.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[attr-defined]
    return TypeAdapter(kind)


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "nested too deeply" if isinstance(error, RecursionError) else str(error)
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, fault["loc"])) or "the top"
    more = error.error_count() - 1
    return f"{place}: {fault['msg']}" + (f" (and {more} more)" if more else "")
