"""Which bundles have been run dry on which robots under which limits: the first run never moves anything."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from s2robot.deploy.brain import Plan
from s2robot.deploy.bundle import Identity
from s2robot.errors import S2RobotError
from s2robot.storage import append_line, cut_torn_line, fingerprint

LEAST_TICKS = 40  # decided, without a fault, or it was no dry run


def key_of(identity: Identity, plan: Plan, robot: Any) -> str:
    """What has to be run dry again once any of it changes; `robot` is its configuration."""
    return fingerprint({"identity": asdict(identity), "plan": plan.to_json(), "robot": robot})


def require_dry_run(key: str, folder: Path | None = None) -> None:
    """Raises S2RobotError where this combination has never been run dry on this computer."""
    path = _file(folder)
    lines = path.read_text().splitlines() if path.exists() else []
    if not any(json.loads(line).get("key") == key for line in lines if line.startswith("{") and line.endswith("}")):
        raise S2RobotError(
            "this bundle has not been run dry on this robot under these limits: run once without armed=true (at least "
            f"{LEAST_TICKS} ticks that are not held), look at its log with `s2robot data report run.mcap`, then arm"
        )


def note_dry_run(key: str, ticks: int, log: str, folder: Path | None = None) -> None:
    """Remember a dry run that went through."""
    path = _file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_torn_line(path)
    append_line(path, json.dumps({"key": key, "ticks": ticks, "log": log}))


def _file(folder: Path | None) -> Path:
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return (folder or state / "s2robot") / "dry_runs.jsonl"
