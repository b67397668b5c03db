"""Errors a user can cause or mend. The command line prints them as one line and exits with status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class S2RobotError(ValueError):
    """Bad input. The message is one line: what came, what was allowed, what to do."""


class DamagedError(S2RobotError):
    """Stored data fails its checksum or is incomplete."""


class MismatchError(S2RobotError):
    """Two artefacts that must belong together carry different fingerprints or specs."""


def unknown_name(kind: str, came: str, allowed: Iterable[str]) -> S2RobotError:
    """The error for a name that is not in a catalogue: the value, the valid names and the nearest of them."""
    names = sorted(allowed)
    near = difflib.get_close_matches(came, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return S2RobotError(f"unknown {kind} {came!r}; known: {', '.join(names) or 'none'}{hint}")


def some(names: Iterable[str], limit: int = 8) -> str:
    """The first `limit` names as a list for people, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
