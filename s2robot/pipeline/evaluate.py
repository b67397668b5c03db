"""`s2robot evaluate`: a checkpoint on a range of seeds, one outcome per episode."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2robot.errors import MismatchError
from s2robot.pipeline.report.outcomes import Outcome, read_outcomes, write_outcomes
from s2robot.pipeline.rollout import Actor, Rollout, RolloutPool, rollout
from s2robot.progress import progress
from s2robot.storage import (
    append_line,
    cut_torn_line,
    fingerprint,
    fsync_folder,
    read_json,
    read_json_lines,
    write_atomic,
    write_json,
)

EPISODES, TIMINGS, JOURNAL, IDENTITY, CLIPS = (
    "episodes.jsonl",
    "timings.jsonl",
    "journal.jsonl",
    "evaluate.json",
    "clips",
)
CLIPS_PER_END = 3
ROWS = 8  # group size of encoder and policy calls in rollouts; part of every outcome


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated: the names that go into each outcome, and what the outcomes depend on."""

    task: str
    arm: str
    train_seed: int
    checkpoint_sha256: str
    task_config: Mapping[str, Any]


def policy_sha256(manifest: Mapping[str, Any]) -> str:
    """Identity of all that decides what a checkpoint does: weights, encoder, configuration and normalisers."""
    parts = {key: manifest[key] for key in ("policy", "encoder", "normalise", "cameras", "shapes")}
    return fingerprint({**parts, "weights": manifest["files"]["policy.safetensors"]})


def evaluate(what: Evaluation, agent: Actor, pool: RolloutPool, seeds: range, out: Path) -> list[Outcome]:
    """Roll out every seed and write `episodes.jsonl` (outcomes, sorted) and `timings.jsonl` (what does not belong to an
    outcome: seconds, decisions, seam and last grasp) into `out`.

    Each finished episode is journalled at once: a second start runs only what is missing. Raises MismatchError when
    `out` holds an evaluation of something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, what)
    wanted = set(seeds)
    cut_torn_line(out / JOURNAL)  # a kill may tear the last line; its episode then runs again
    lines = {line["seed"]: line for line in _read_journal(out / JOURNAL)}
    missing = [seed for seed in seeds if seed not in lines]
    label = f"rollouts {what.task}/{what.arm}"
    for episode in progress(
        rollout(pool, agent, missing, _recorded_camera(what)), len(seeds), label, "episode", len(seeds) - len(missing)
    ):
        outcome = _outcome(what, episode)
        grasp = None if episode.grasp is None else asdict(episode.grasp)
        timing = {
            "seconds": episode.seconds, "decisions": episode.decisions, "seam": episode.seam, "grasp": grasp
        }  # fmt: skip
        _keep_clip(out / CLIPS, episode)
        lines[episode.seed] = {**asdict(outcome), "timing": timing}
        append_line(out / JOURNAL, json.dumps(lines[episode.seed]))
    chosen = [lines[seed] for seed in sorted(wanted)]
    write_outcomes(out / EPISODES, [_parse(line) for line in chosen])
    timings = "".join(json.dumps({"seed": line["seed"], **line["timing"]}) + "\n" for line in chosen)
    write_atomic(out / TIMINGS, timings.encode())
    return read_outcomes(out / EPISODES)


@dataclass(frozen=True)
class Conduct:
    """How the rollouts in a folder went beside their outcomes. `seam` is the mean over episodes, None where chunks do
    not overlap. `failures` counts failed episodes by where the gripper closed nearest to any object: at the one that
    the goal names ("missed"), at another ("other"), or never ("open"); a miss is often followed by more of them in the
    air. `failed_mm` are its distances (mm) to the named object in those that closed.
    """

    seam: float | None
    failures: Mapping[str, int]
    failed_mm: tuple[float, ...]

    def sentence(self) -> str:
        """For people; empty without failures."""
        told = {"missed": "closed at the named object", "other": "closed nearer to another", "open": "never closed"}
        parts = [f"{count} {told[kind]}" for kind, count in self.failures.items() if count]
        distance = f"; {np.median(self.failed_mm):.0f} mm from the named one at the median" if self.failed_mm else ""
        return f"failures: {', '.join(parts)}{distance}" if parts else ""


def read_conduct(out: Path) -> Conduct:
    """Of a finished evaluation in `out`."""
    failed = {outcome.seed for outcome in read_outcomes(out / EPISODES) if not outcome.success}
    lines = read_json_lines(out / TIMINGS)
    seams = [line["seam"] for line in lines if line["seam"] is not None]
    if any("grasp" not in line for line in lines):  # by an earlier version
        return Conduct(float(np.mean(seams)) if seams else None, {}, ())
    kinds, distances = dict.fromkeys(("missed", "other", "open"), 0), []
    for grasp in (line["grasp"] for line in lines if line["seed"] in failed):
        if grasp is None:
            kinds["open"] += 1
            continue
        elsewhere = grasp["other_m"] is not None and grasp["other_m"] < grasp["named_m"]
        kinds["other" if elsewhere else "missed"] += 1
        distances.append(1e3 * grasp["named_m"])
    return Conduct(float(np.mean(seams)) if seams else None, kinds, tuple(distances))


def _recorded_camera(what: Evaluation) -> str:
    """The camera of the videos: the task's first, also where the policy is blind."""
    return str(what.task_config["cameras"][0])


def load_clips(out: Path) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
    """Recorded successes and failures of an evaluation, as lists of frames."""
    found = []
    for end in ("success", "failure"):
        found.append([list(np.load(path)) for path in sorted((out / CLIPS).glob(f"{end}-*.npy"))])
    return found[0], found[1]


def _claim(out: Path, what: Evaluation) -> None:
    identity = json.loads(json.dumps(asdict(what)))
    if (out / IDENTITY).exists():
        theirs = read_json(out / IDENTITY)
        changed = sorted(key for key in identity if theirs.get(key) != identity[key])
        if changed:
            raise MismatchError(
                f"{out} holds an evaluation with another {', '.join(changed)}; give another out= or delete that one"
            )
    else:
        write_json(out / IDENTITY, identity)


def _read_journal(path: Path) -> list[dict[str, Any]]:
    return read_json_lines(path) if path.exists() else []


def _keep_clip(folder: Path, episode: Rollout) -> None:
    """Save the first few successes and failures for the videos."""
    end = "success" if episode.success else "failure"
    if len(list(folder.glob(f"{end}-*.npy"))) >= CLIPS_PER_END or not episode.clip:
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{episode.seed}.partial.npy"
    np.save(partial, np.stack(episode.clip))
    partial.rename(folder / f"{end}-{episode.seed:06d}.npy")
    fsync_folder(folder)


def _outcome(what: Evaluation, episode: Rollout) -> Outcome:
    return Outcome(
        task=what.task,
        arm=what.arm,
        train_seed=what.train_seed,
        seed=episode.seed,
        initial_state_sha256=episode.initial_state_sha256,
        success=episode.success,
        steps=episode.steps,
        end=episode.end,
    )


def _parse(line: Mapping[str, Any]) -> Outcome:
    return Outcome(**{k: v for k, v in line.items() if k != "timing"})
