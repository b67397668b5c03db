"""Outcomes of rollouts: one JSON line per episode, sorted, the same bytes for the same outcomes.

Dims: i initial states.

Everything in a report that is called success is derived from these lines.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from s2robot.errors import DamagedError, MismatchError, S2RobotError
from s2robot.storage import write_atomic
from s2robot.types import EndReason


@dataclass(frozen=True, order=True)
class Outcome:
    """How one rollout ended. `seed` placed the objects; `initial_state_sha256` proves that it placed them alike."""

    task: str
    arm: str
    train_seed: int
    seed: int
    initial_state_sha256: str
    success: bool
    steps: int
    end: EndReason


@dataclass(frozen=True)
class TaskOutcomes:
    """All arms of one task on the same initial states: `success[arm][train_seed]` follows `states`."""

    task: str
    states: tuple[tuple[int, str], ...]  # (seed, initial_state_sha256), sorted
    success: Mapping[str, Mapping[int, Bool[np.ndarray, " i"]]]


def read_outcomes(path: Path) -> list[Outcome]:
    """The outcomes in an `episodes.jsonl`, sorted. Raises DamagedError naming the line that does not parse."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError as error:
        raise DamagedError(f"{path} does not exist; write it with `s2robot evaluate`") from error
    outcomes = []
    for number, line in enumerate(lines, start=1):
        try:
            outcomes.append(_parse(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DamagedError(
                f"{path}, line {number} is no outcome ({error}); run `s2robot evaluate` again to rewrite it"
            ) from error
    return sorted(outcomes)


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write `episodes.jsonl` atomically, one line per outcome, sorted by task, arm, training seed and seed."""
    write_atomic(path, "".join(json.dumps(asdict(outcome)) + "\n" for outcome in sorted(outcomes)).encode())


def aggregate(outcomes: Iterable[Outcome]) -> dict[str, TaskOutcomes]:
    """Line the arms and training seeds of each task up on identical (seed, initial_state_sha256).

    Raises MismatchError unless every checkpoint of a task started from the same states, each once: a paired
    comparison of different states would be an unpaired one in disguise.
    """
    runs: dict[str, dict[tuple[str, int], dict[int, Outcome]]] = defaultdict(lambda: defaultdict(dict))
    for outcome in sorted(outcomes):
        run = runs[outcome.task][outcome.arm, outcome.train_seed]
        if outcome.seed in run:
            raise MismatchError(
                f"{outcome.task}: arm {outcome.arm!r}, training seed {outcome.train_seed} holds seed {outcome.seed} "
                "twice; keep one outcome per episode"
            )
        run[outcome.seed] = outcome
    return {task: _line_up(task, by_run) for task, by_run in runs.items()}


def _line_up(task: str, runs: Mapping[tuple[str, int], Mapping[int, Outcome]]) -> TaskOutcomes:
    (first_arm, first_seed), first = next(iter(runs.items()))
    success: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for (arm, train_seed), run in runs.items():
        odd = next((seed for seed in sorted({*first, *run}) if _state(first, seed) != _state(run, seed)), None)
        if odd is not None:
            raise MismatchError(
                f"{task}: arms {first_arm!r} (training seed {first_seed}) and {arm!r} (training seed {train_seed}) "
                f"did not start alike: seed {odd} has initial state {_state(first, odd)} against {_state(run, odd)}; "
                "evaluate both on the same seeds with the same task version"
            )
        success[arm][train_seed] = np.array([run[seed].success for seed in sorted(run)], dtype=bool)
    states = tuple((seed, first[seed].initial_state_sha256) for seed in sorted(first))
    return TaskOutcomes(task, states, {arm: dict(by_seed) for arm, by_seed in success.items()})


def _state(run: Mapping[int, Outcome], seed: int) -> str:
    return run[seed].initial_state_sha256[:12] if seed in run else "(no episode)"


def _parse(record: Any) -> Outcome:
    names = [field.name for field in fields(Outcome)]
    if not isinstance(record, dict) or sorted(record) != sorted(names):
        raise S2RobotError(f"keys must be {', '.join(names)}")
    if not (isinstance(record["success"], bool) and type(record["seed"]) is int and type(record["train_seed"]) is int):
        raise S2RobotError("success must be true or false, seed and train_seed whole numbers")
    return Outcome(**record)
