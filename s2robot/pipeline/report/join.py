"""One report of an experiment whose tasks or arms were run apart, on several machines or days."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from s2robot.errors import MismatchError, S2RobotError
from s2robot.pipeline.report.records import all_pairs
from s2robot.storage import read_json
from s2robot.types import require_equal

Report = Mapping[str, Any]
APART = (" / ", "\n")  # between values of machines that differ; between commands


def read_report(path: Path) -> dict[str, Any]:
    """A `report.json` of `s2robot compare`. Raises S2RobotError where it is none."""
    if not path.is_file():
        raise S2RobotError(f"there is no report at {path}; give the report.json of a finished `s2robot compare`")
    report: Any = read_json(path)
    missing = [key for key in ("command", "tasks", "setup", "stages_s", "versions") if key not in report]
    if missing:
        raise S2RobotError(f"{path} has no {', '.join(missing)}; give the report.json of `s2robot compare`")
    if old := [name for name, task in report["tasks"].items() if "states_sha256" not in task]:
        raise S2RobotError(
            f"{path} does not say which states of {', '.join(old)} each run solved: an earlier version wrote it; "
            "start that `s2robot compare` again, it keeps what it finished"
        )
    return dict(report)


def require_joinable(setup: Mapping[str, Any], arms: Mapping[str, Iterable[str]], others: Sequence[Report]) -> None:
    """Raise MismatchError where another report has another setup or one of these arms, given by task: that is no part
    of the same experiment.
    """
    seen = {(task, arm) for task, names in arms.items() for arm in names}
    own = {arm: _own(setup).get(arm) for _, arm in seen}
    for report in others:
        require_equal("the setup of a report", _shared(setup), _shared(report["setup"]), "join parts of one experiment")
        came = {(task, arm["name"]) for task, content in report["tasks"].items() for arm in content["arms"]}
        if twice := sorted(seen & came):
            raise MismatchError(f"{' of '.join(twice[0][::-1])} came twice; join reports of different tasks or arms")
        seen |= came
        for arm in {arm for _, arm in came}:
            theirs = _own(report["setup"]).get(arm)
            require_equal(f"the setup of {arm}", own.setdefault(arm, theirs), theirs, "join parts of one experiment")


def join_reports(reports: Sequence[Report]) -> dict[str, Any]:
    """The tasks of all of them, in order; arms of a task that several have are compared on the states they share.

    Raises MismatchError as `require_joinable` does, and where the arms of a task started from other states.
    """
    first, *others = reports
    require_joinable(first["setup"], _arms(first), others)
    joined: dict[str, Any] = {**first, "tasks": {}, "stages_s": {}}
    joined["setup"] = {**first["setup"], "own": {k: v for report in reports for k, v in _own(report["setup"]).items()}}
    for report in reports:
        for name, task in report["tasks"].items():
            joined["tasks"][name] = _join_task(name, joined["tasks"].get(name), task)
        joined["stages_s"] |= report["stages_s"]
    names = dict.fromkeys(name for report in reports for name in report["versions"])
    joined["versions"] = {name: _each(APART[0], [r["versions"].get(name, "-") for r in reports]) for name in names}
    joined["command"] = _each(APART[1], [report["command"] for report in reports])
    joined["match_ratio"] = next((r["match_ratio"] for r in reports if r.get("match_ratio") is not None), None)
    return joined


def _join_task(name: str, known: Mapping[str, Any] | None, task: Mapping[str, Any]) -> Mapping[str, Any]:
    if known is None:
        return task
    states = ("seeds", "states_sha256")
    require_equal(
        f"{name} of a report", {k: known[k] for k in states}, {k: task[k] for k in states}, "join arms of equal states"
    )
    arms = [*known["arms"], *task["arms"]]
    return {**known, "arms": arms, "pairs": all_pairs(name, arms)}


def _arms(report: Report) -> dict[str, list[str]]:
    return {task: [arm["name"] for arm in content["arms"]] for task, content in report["tasks"].items()}


def _own(setup: Mapping[str, Any]) -> Mapping[str, Any]:
    own: Mapping[str, Any] = setup.get("own", {})
    return own


def _shared(setup: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in setup.items() if key != "own"}


def _each(between: str, values: Sequence[str]) -> str:
    return between.join(dict.fromkeys(line for value in values for line in value.split(between)))
