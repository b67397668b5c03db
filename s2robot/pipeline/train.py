"""`s2robot train`: cached features and demonstrations to a policy checkpoint."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2robot.errors import S2RobotError
from s2robot.pipeline.curve import Curve, read_curve
from s2robot.pipeline.dataset import Split, TrainingData
from s2robot.pipeline.distributed import Group
from s2robot.pipeline.evaluate import ROWS
from s2robot.pipeline.fit import fit
from s2robot.pipeline.job import Job, batch_loss, new_policy, new_state, require_frozen
from s2robot.pipeline.rollout import RolloutPool
from s2robot.pipeline.run import Run, finished_run
from s2robot.pipeline.sampler import EpochSampler
from s2robot.pipeline.seeds import parse_seeds
from s2robot.pipeline.select import Candidates
from s2robot.pipeline.tokens import Prefetch
from s2robot.policies.agent import Agent
from s2robot.progress import progress, say
from s2robot.storage import fingerprint

VALIDATION_BATCHES = 8
POINTS = 20  # of the curve
LONG_WAIT = 0.05  # for data, as a share of the time


@dataclass(frozen=True)
class TrainResult:
    """Where the checkpoint lies and what it took; a finished run that is asked for again costs nothing."""

    checkpoint: Path
    train_s: float
    curve: list[dict[str, float]]

    @property
    def data_wait(self) -> float:
        """Share of the steps' time that they waited for data."""
        return statistics.fmean(point["data_wait"] for point in self.curve if "data_wait" in point)


def train(job: Job, out: Path, group: Group, pool: RolloutPool | None = None) -> TrainResult:
    """Train one policy into `out`, going on from the newest intact checkpoint there.

    `pool` is where the recipe's rollouts run; needed where it asks for any. Raises MismatchError when `out` holds a run
    of other data, encoder, policy or recipe, S2RobotError where the loss or its gradient
    stops being a number.
    """
    recipe, identity = job.recipe, job.identity()
    out.mkdir(parents=True, exist_ok=True)
    if finished_run(out, identity):
        return _result(out, identity)
    data = job.data(group.device)
    policy = new_policy(job.policy, data, recipe.seed).to(group.device)
    state = new_state(policy, recipe, len(data.train), group)
    batches = EpochSampler(
        data.train, recipe.batch_size, recipe.seed, len(job.data_config().view_ids), group.rank, group.world
    )
    steps = state.schedule.steps
    rollout_seeds = parse_seeds(recipe.rollout_seeds)
    candidates = Candidates(out, recipe.rollout_steps(steps), rollout_seeds, fingerprint(identity))
    if candidates.steps and pool is None and group.first:
        raise S2RobotError(f"rollouts={recipe.rollouts}: give the simulated task to roll out in, or rollouts=0")
    run = Run(out, job.manifest(data), state)
    run.resume()
    with Curve(out, state.step, recipe.tensorboard, group.first) as curve, Prefetch(batches) as ahead:
        if group.first and state.step in candidates.steps:  # it was killed between a save and the end of its rollouts
            curve.add(state.step, {"success": _score(job, data, run, candidates, pool)})
        records = fit(batch_loss(policy, recipe, group), ahead, state)
        for record in progress(records, steps, f"train {out.name}", "step", state.step, show=group.first):
            run.note(record, group.mean(record.loss))
            last, scored = record.step == steps, record.step in candidates.steps
            at_point = last or record.step % max(1, steps // POINTS) == 0
            saved = last or scored or (group.first and run.save_is_due(recipe.save_every_s))
            if at_point or saved:
                run.require_finite(batches.episodes)
            means = run.means(record) if at_point else {}
            if group.first:
                if at_point:
                    curve.add(record.step, means | {"val_loss": validate(state.best, data.validation)})
                if saved:
                    require_frozen(job.encoder)
                    run.save(finished=last)
                if scored:
                    curve.add(record.step, {"success": _score(job, data, run, candidates, pool)})
            if scored or last:
                group.wait()
    if group.first:
        candidates.choose(out)
    group.wait()
    result = _result(out, identity)
    if group.first:
        say(f"train {out.name}: {result.train_s:.0f} s, waited for data {result.data_wait:.1%} of the time")
        if result.data_wait > LONG_WAIT:
            say("that is long: recipe.features=resident, fewer views or cameras, or a quicker disk would help")
    return result


def _score(job: Job, data: TrainingData, run: Run, candidates: Candidates, pool: RolloutPool | None) -> float:
    """The share of validation seeds that the policy solves now; not rolled out again where that is known."""
    step = run.state.step
    if not candidates.due(step):
        return candidates.scores()[step] / len(candidates.seeds)
    assert pool is not None
    policy: Any = run.state.best
    cameras, representation = data.shapes.cameras, data.actions.representation
    agent = Agent(job.encoder, policy, data.proprio, data.action, cameras, ROWS, representation)
    return candidates.score(step, agent, pool, policy.state_dict(), run.manifest)


def _result(out: Path, identity: Mapping[str, Any]) -> TrainResult:
    found = finished_run(out, identity)
    assert found is not None
    path, manifest = found
    return TrainResult(path, float(manifest["train_s"]), read_curve(out))


@torch.no_grad()
def validate(policy: Any, split: Split) -> float:
    """Mean loss over evenly spaced held-out windows, plain view, same noise every time."""
    policy.eval()
    rows = np.linspace(0, len(split) - 1, min(len(split), 256 * VALIDATION_BATCHES)).astype(np.int64)
    torch.manual_seed(0)
    parts = np.array_split(rows, min(VALIDATION_BATCHES, len(rows)))
    losses = [policy.loss(split.gather(part, np.zeros(len(part), np.int64))) for part in parts]
    return float(torch.stack(losses).mean())
