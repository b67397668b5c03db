"""From measured figures and outcomes to the one dictionary that every table, plot and page is drawn from.

`build_report` returns plain JSON types with a fixed schema (the README of a result names the keys); it measures
nothing and reads no clock, so the same records give the same report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool

from s2robot.errors import MismatchError, S2RobotError
from s2robot.pipeline.report.outcomes import Outcome, TaskOutcomes, aggregate
from s2robot.pipeline.seeds import VALIDATION_SEEDS
from s2robot.pipeline.statistics import Contrast, contrast, verdict, wilson
from s2robot.storage import fingerprint

MATCH_TOLERANCE = 0.05
PRIMARY = (("s2", "large"), ("s2", "fine"), ("s2_unpooled", "large"), ("s2_unpooled", "fine_unpooled"))
SECONDARY = (("s2", "base"), ("s2", "random"), ("s2", "blind"), ("s2_unpooled", "s2"), ("fine_unpooled", "large"))
SUBJECTS = ("s2", "s2_unpooled", "fine_unpooled")  # the arms whose contrasts are put into words
# What the paper (arXiv 2403.13043) says or what a control must show, each as a clause in which the first wins.
CLAIMS = {
    ("s2", "large"): "several scales of a small encoder beat one scale of a larger encoder",
    ("s2_unpooled", "large"): "several scales of a small encoder beat one scale of a larger encoder",
    ("s2", "fine"): "several scales cut into tiles beat one scale of the finest resolution",
    ("s2_unpooled", "fine_unpooled"): "several scales cut into tiles beat one scale of the finest resolution",
    ("fine_unpooled", "large"): "one fine scale of a small encoder beats one coarse scale of a larger encoder",
    ("s2_unpooled", "s2"): "the cells of the finer scale beat their means",
    ("s2", "base"): "a second scale improves on the first alone",
    ("s2", "random"): "pre-trained weights beat random ones",
    ("s2", "blind"): "the policy uses the image",
}


@dataclass(frozen=True)
class CurvePoint:
    """Mean training loss since the last point, and validation loss where it was measured."""

    step: int
    train_loss: float
    val_loss: float | None = None


@dataclass(frozen=True)
class RunRecord:
    """One training run of an arm and the rollouts of its checkpoint: their outcomes, the mean seam between chunks, and
    failures by kind (`evaluate.Conduct`).
    """

    train_seed: int
    train_s: float
    outcomes: Sequence[Outcome]
    curve: Sequence[CurvePoint] = ()
    seam: float | None = None
    failures: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ArmRecord:
    """All that was measured of one arm. Cost is per image or per decision (all cameras), latency at batch 1.

    `params` and `gmac_decision` include the policy. `weights_sha256` is that of `weights_identity`; it, `dtype` (that
    it computes in) and `encode_frames_s` are None for an arm without an encoder, `sizes` is empty. `peak_mb` is None
    where it was not measured. `policy_ms` is the latency of the policy alone by batch size. `machine` is that of the
    latencies.
    """

    name: str
    encoder: str
    sizes: Sequence[int]
    weights_sha256: str | None
    dtype: str | None
    gmac_image: float
    gmac_decision: float
    params: int
    policy: str
    policy_params: int
    policy_ms: Mapping[str, float]
    latency_p50_ms: float
    latency_p95_ms: float
    peak_mb: float | None
    machine: str | None
    encode_frames_s: float | None
    runs: Sequence[RunRecord]

    def __post_init__(self) -> None:
        for name in ("gmac_image", "gmac_decision", "latency_p50_ms", "latency_p95_ms"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise S2RobotError(f"arm {self.name!r}: {name} is {value}; give a measured figure, 0 or more")


def build_report(
    tasks: Mapping[str, Sequence[ArmRecord]],
    stages_s: Mapping[str, float],
    command: str,
    versions: Mapping[str, str],
    setup: Mapping[str, Any],
    match: float | None = None,
) -> dict[str, Any]:
    """The report as plain JSON types.

    `setup` is what all arms share: demonstrations, cameras, policy and recipe, as plain JSON types.
    `match` is the compute of arm "large" over that of "s2" (1 is an exact match); None takes it from the first task
    that has both. With several training seeds `pairs` carry the two-way bootstrap interval as `diff95`, and n, a_only,
    b_only and mcnemar_p are those of the two checkpoints of training seed `mcnemar_train_seed`.
    Raises S2RobotError when there is nothing to report, MismatchError when arms did not start from the same states.
    """
    if not tasks or not all(arms and all(arm.runs for arm in arms) for arms in tasks.values()):
        raise S2RobotError("nothing to report: give at least one task, and for each arm at least one run")
    built = {name: _task(name, arms) for name, arms in tasks.items()}
    if match is None:
        match = next((ratio for task in built.values() if (ratio := _match(task["arms"])) is not None), None)
    return {
        "command": command,
        "tasks": built,
        "setup": dict(setup),
        "match_ratio": _finite(match),
        "stages_s": {stage: _finite(seconds) for stage, seconds in stages_s.items()},
        "versions": dict(versions),
    }


def run_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per trained policy: the report without its comparisons, for spreadsheets and scripts."""
    return [
        {
            "policy": arm["policy"],
            "task": task,
            "arm": arm["name"],
            "encoder": arm["encoder"],
            "sizes": arm["sizes"],
            "train_seed": run["train_seed"],
            "success": {**run["success"], "wilson95": _interval(**run["success"])},
            "train_min": _finite(None if run["train_s"] is None else run["train_s"] / 60),
            "infer_ms": arm["policy_ms"]["1"],
            "infer_50_ms": arm["policy_ms"]["50"],
            "params": arm["policy_params"],
            "seam": run.get("seam"),
        }
        for task, content in report["tasks"].items()
        for arm in content["arms"]
        for run in arm["runs"]
    ]


def matched(arm: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two arms of a report cost the same compute per image within the tolerance of 5 %."""
    low, high = sorted((arm["gmac_image"], other["gmac_image"]))
    return low > 0 and high / low <= 1 + MATCH_TOLERANCE


def _task(name: str, arms: Sequence[ArmRecord]) -> dict[str, Any]:
    names = [arm.name for arm in arms]
    if len(set(names)) != len(names):
        raise S2RobotError(f"{name}: arms {', '.join(names)} are not all different; give each arm its own name")
    lined_up = aggregate(_checked_outcomes(name, arms))[name]
    records = [_arm(arm, lined_up) for arm in arms]
    seeds = [seed for seed, _ in lined_up.states]
    return {
        "arms": records,
        "pairs": all_pairs(name, records),
        "seeds": _ranges(seeds),
        "validation": any(seed in VALIDATION_SEEDS for seed in seeds),
        "states": len(seeds),
        "states_sha256": fingerprint(lined_up.states),
    }


def all_pairs(task: str, arms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every two of a task's arms compared, the planned contrasts first, from what the arms' runs say of each state.

    Raises MismatchError where two arms share no training seed.
    """
    by_name = {arm["name"]: arm for arm in arms}
    return [_pair(task, by_name[a], by_name[b]) for a, b in _contrasts(list(by_name))]


def _checked_outcomes(task: str, arms: Sequence[ArmRecord]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for arm in arms:
        for run in arm.runs:
            came = {(o.task, o.arm, o.train_seed) for o in run.outcomes}
            if came != {(task, arm.name, run.train_seed)}:
                raise MismatchError(
                    f"outcomes of {sorted(came)} were given for task {task!r}, arm {arm.name!r}, training seed "
                    f"{run.train_seed}; hand each run its own episodes"
                )
            outcomes.extend(run.outcomes)
    return outcomes


def _arm(arm: ArmRecord, lined_up: TaskOutcomes) -> dict[str, Any]:
    success = lined_up.success[arm.name]
    k, n = (sum(int(f(run)) for run in success.values()) for f in (np.sum, np.size))
    return {
        "name": arm.name,
        "encoder": arm.encoder,
        "sizes": list(arm.sizes),
        "weights_sha256": arm.weights_sha256,
        "dtype": arm.dtype,
        "gmac_image": _finite(arm.gmac_image),
        "gmac_decision": _finite(arm.gmac_decision),
        "params": arm.params,
        "policy": arm.policy,
        "policy_params": arm.policy_params,
        "policy_ms": {rows: _finite(ms) for rows, ms in arm.policy_ms.items()},
        "latency_ms": {"p50": _finite(arm.latency_p50_ms), "p95": _finite(arm.latency_p95_ms)},
        "peak_mb": _finite(arm.peak_mb),
        "machine": arm.machine,
        "encode_frames_s": _finite(arm.encode_frames_s),
        "runs": [_run(run, success[run.train_seed]) for run in sorted(arm.runs, key=lambda r: r.train_seed)],
        "success": {
            "k": k,
            "n": n,
            "rate": _finite(k / n),
            "wilson95": _interval(k, n),
        },
    }


def _interval(k: int, n: int) -> list[float | None]:
    interval = wilson(k, n)
    return [_finite(interval.low), _finite(interval.high)]


def _run(run: RunRecord, success: np.ndarray) -> dict[str, Any]:
    return {
        "train_seed": run.train_seed,
        "train_s": _finite(run.train_s),
        "success": {"k": int(success.sum()), "n": int(success.size)},
        "seam": _finite(run.seam),
        "failures": dict(run.failures),
        "by_state": "".join("1" if solved else "0" for solved in success),
        "curve": {
            "step": [point.step for point in run.curve],
            "train_loss": [_finite(point.train_loss) for point in run.curve],
            "val_loss": [_finite(point.val_loss) for point in run.curve],
        },
    }


def _contrasts(names: Sequence[str]) -> list[tuple[str, str]]:
    """The experiment's contrasts first, primary ones leading, then every other pair in the order of the arms."""
    planned = [(a, b) for a, b in PRIMARY + SECONDARY if a in names and b in names]
    return planned + [pair for pair in combinations(names, 2) if pair not in planned and pair[::-1] not in planned]


def _pair(task: str, arm: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    a, b = arm["name"], other["name"]
    runs_a, runs_b = _by_state(arm), _by_state(other)
    train_seeds = sorted({*runs_a} & {*runs_b})
    if not train_seeds:
        raise MismatchError(
            f"{task}: arms {a!r} (training seeds {sorted(runs_a)}) and {b!r} ({sorted(runs_b)}) share no training "
            "seed; train both with the same ones"
        )
    result = contrast(np.stack([runs_a[s] for s in train_seeds]), np.stack([runs_b[s] for s in train_seeds]))
    return {
        "a": a,
        "b": b,
        "n": result.n,
        "diff": _finite(result.diff),
        "a_only": result.a_only,
        "b_only": result.b_only,
        "mcnemar_p": _finite(result.mcnemar_p),
        "detectable": _finite(result.detectable),
        "diff95": [_finite(result.interval.low), _finite(result.interval.high)],
        "train_seeds": train_seeds,
        "mcnemar_train_seed": train_seeds[0],
        "detectable_basis": _detectable_basis(result),
        "primary": (a, b) in PRIMARY,
        "verdict": verdict(a, b, result, CLAIMS.get((a, b), "")) + _compute_note(arm, other),
    }


def _by_state(arm: Mapping[str, Any]) -> dict[int, Bool[np.ndarray, " i"]]:
    return {run["train_seed"]: np.array([solved == "1" for solved in run["by_state"]]) for run in arm["runs"]}


def _detectable_basis(result: Contrast) -> str:
    if result.train_seeds > 1:
        return "2.8 standard errors of the two-way bootstrap"
    if result.a_only + result.b_only == 0:
        return "exact McNemar; no discordant episode, so the best case: all discordance favours one arm"
    return "exact McNemar at the observed discordance"


def _compute_note(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """The primary contrasts ought to be at equal compute: the sentence says whether they are."""
    if (a["name"], b["name"]) not in PRIMARY:
        return ""
    relation = "matched" if matched(a, b) else "NOT matched"
    return f" [compute {relation}: {a['gmac_image']:.2f} against {b['gmac_image']:.2f} GMAC per image]"


def _match(arms: Sequence[Mapping[str, Any]]) -> float | None:
    gmac = {arm["name"]: arm["gmac_image"] for arm in arms}
    return gmac["large"] / gmac["s2"] if gmac.get("s2") and "large" in gmac else None


def _ranges(seeds: Sequence[int]) -> str:
    """Half-open ranges: [3, 4, 5, 9] is "3:6 9:10"."""
    known = set(seeds)
    starts = [s for s in seeds if s - 1 not in known]
    ends = [s + 1 for s in seeds if s + 1 not in known]
    return " ".join(f"{start}:{end}" for start, end in zip(starts, ends, strict=True))


def _finite(value: float | None) -> float | None:
    """Six significant digits (beyond them is noise of the machine); NaN and infinity, which JSON lacks, as None."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")
