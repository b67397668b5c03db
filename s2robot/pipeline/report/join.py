"""One report of an experiment whose tasks were run apart, on several machines or days."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from s2robot.errors import MismatchError, S2RobotError
from s2robot.storage import read_json
from s2robot.types import require_equal

APART = (" / ", "\n")  # between values of machines that differ; between commands


def read_report(path: Path) -> dict[str, Any]:
    """A `report.json` of `s2robot compare`. Raises S2RobotError where it is none."""
    if not path.is_file():
        raise S2RobotError(f"there is no report at {path}; give the report.json of a finished `s2robot compare`")
    report: Any = read_json(path)
    missing = [key for key in ("command", "tasks", "setup", "stages_s", "versions") if key not in report]
    if missing:
        raise S2RobotError(f"{path} has no {', '.join(missing)}; give the report.json of `s2robot compare`")
    return dict(report)


def require_joinable(setup: Mapping[str, Any], tasks: Iterable[str], others: Sequence[Mapping[str, Any]]) -> None:
    """Raise MismatchError where another report has another setup or one of these tasks: that is no part of the same
    experiment.
    """
    seen = set(tasks)
    for report in others:
        require_equal("the setup of a report", setup, report["setup"], "join parts of one experiment only")
        if twice := seen.intersection(report["tasks"]):
            raise MismatchError(f"{', '.join(sorted(twice))} came twice; join reports of different tasks")
        seen |= set(report["tasks"])


def join_reports(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The tasks of all of them, in order. Raises MismatchError as `require_joinable` does."""
    first, *others = reports
    require_joinable(first["setup"], first["tasks"], others)
    joined: dict[str, Any] = {**first, "tasks": {}, "stages_s": {}}
    for report in reports:
        joined["tasks"] |= report["tasks"]
        joined["stages_s"] |= report["stages_s"]
    names = dict.fromkeys(name for report in reports for name in report["versions"])
    joined["versions"] = {name: _each(APART[0], [r["versions"].get(name, "-") for r in reports]) for name in names}
    joined["command"] = _each(APART[1], [report["command"] for report in reports])
    joined["match_ratio"] = next((r["match_ratio"] for r in reports if r.get("match_ratio") is not None), None)
    return joined


def _each(between: str, values: Sequence[str]) -> str:
    return between.join(dict.fromkeys(values))
