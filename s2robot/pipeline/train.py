"""`s2robot train`: cached features and demonstrations to a policy checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from s2robot import __version__
from s2robot.data.actions import ActionChoice
from s2robot.data.episodes import EpisodeStore
from s2robot.data.features import SHIFT_VERSION, FeatureCache
from s2robot.data.transforms import to_json
from s2robot.data.windows import Horizons
from s2robot.encoders.interface import Encoder
from s2robot.errors import S2RobotError
from s2robot.pipeline.curve import Curve, read_curve
from s2robot.pipeline.dataset import Split, TrainingData, load_training_data
from s2robot.pipeline.distributed import Group
from s2robot.pipeline.evaluate import ROWS
from s2robot.pipeline.fit import Schedule, TrainState, fit
from s2robot.pipeline.recipe import Recipe
from s2robot.pipeline.rollout import RolloutPool
from s2robot.pipeline.run import Run, finished_run
from s2robot.pipeline.seeds import parse_seeds
from s2robot.pipeline.select import Candidates
from s2robot.pipeline.tokens import Prefetch
from s2robot.policies.agent import Agent
from s2robot.policies.batch import Batch
from s2robot.policies.policy import ChunkPolicy, build_policy
from s2robot.progress import progress

VALIDATION_BATCHES = 8
POINTS = 20  # of the curve


@dataclass(frozen=True)
class Job:
    """What is trained on what: with equal fingerprints the result is the same."""

    store: EpisodeStore
    encoder: Encoder
    encoder_config: Mapping[str, Any]
    cache: FeatureCache
    policy: Mapping[str, Any]
    cameras: tuple[str, ...]
    recipe: Recipe

    def identity(self) -> dict[str, Any]:
        """What decides about the checkpoint, as plain JSON types."""
        return {
            "dataset": self.store.dataset_fingerprint(),
            "encoder": self.encoder.fingerprint,
            "policy": {k: v for k, v in self.policy.items() if k != "recipe"} | {"actions": asdict(self.actions())},
            "cameras": list(self.cameras),
            "recipe": self.recipe.settings() | {"shift_version": SHIFT_VERSION},
        }

    def actions(self) -> ActionChoice:
        """How the policy's actions are represented and normalised."""
        return ActionChoice(**self.policy.get("actions", {}))

    def data(self, device: torch.device) -> TrainingData:
        """Features and arrays, ready to be gathered."""
        horizons = Horizons(*(int(self.policy[key]) for key in ("observation_horizon", "chunk", "execute")))
        recipe = self.recipe
        return load_training_data(
            self.store, self.encoder, self.cache, self.cameras, recipe.views, horizons, recipe.validation_fraction,
            device, self.actions(), recipe.features, recipe.stride,
        )  # fmt: skip

    def manifest(self, data: TrainingData) -> dict[str, Any]:
        """Everything needed to act again: configs, specs, normalisers, fingerprints, versions."""
        identity = self.identity()
        return {
            "kind": "policy",
            "identity": identity,
            "encoder": {"config": dict(self.encoder_config), "spec": self.encoder.spec()},
            "policy": identity["policy"],
            "recipe": asdict(self.recipe),
            "cameras": list(self.cameras),
            "spec": self.store.spec.to_json(),
            "shapes": data.shapes.to_json(),
            "normalise": {"proprio": to_json(data.proprio), "action": to_json(data.action)},
            "versions": {"s2robot": __version__, "torch": str(torch.__version__)},
        }


@dataclass(frozen=True)
class TrainResult:
    """Where the checkpoint lies and what it took; a finished run that is asked for again costs nothing."""

    checkpoint: Path
    train_s: float
    curve: list[dict[str, float]]


def train(job: Job, out: Path, group: Group, pool: RolloutPool | None = None) -> TrainResult:
    """Train one policy into `out`, going on from the newest intact checkpoint there.

    `pool` is where the recipe's rollouts run; needed where it asks for any. Raises MismatchError when `out` holds a run
    of other data, encoder, policy or recipe, S2RobotError where the loss stops being a number.
    """
    recipe, identity = job.recipe, job.identity()
    out.mkdir(parents=True, exist_ok=True)
    if finished_run(out, identity):
        return _result(out, identity)
    data = job.data(group.device)
    _require_labels(job, data)
    policy = new_policy(job.policy, data, recipe.seed).to(group.device)
    state = new_state(policy, recipe, len(data.train), group)
    batches = EpochSampler(data.train, recipe.batch_size, recipe.seed, max(1, recipe.views), group.rank, group.world)
    steps = state.schedule.steps
    candidates = Candidates(out, recipe.points(steps), parse_seeds(recipe.rollout_seeds))
    if candidates.points and pool is None and group.first:
        raise S2RobotError(f"rollouts={recipe.rollouts}: give the simulated task to roll out in, or rollouts=0")
    run = Run(out, job.manifest(data), state)
    run.resume()
    with Curve(out, state.step, recipe.tensorboard, group.first) as curve, Prefetch(batches) as ahead:
        if group.first and state.step in candidates.points:  # it was killed between a save and the end of its rollouts
            curve.add(state.step, {"success": _score(job, data, run, candidates, pool)})
        records = fit(batch_loss(policy, recipe, group), ahead, state)
        for record in progress(records, steps, f"train {out.name}", "step", state.step, show=group.first):
            run.note(record, group.mean(record.loss))
            last, scored = record.step == steps, record.step in candidates.points
            at_point = last or record.step % max(1, steps // POINTS) == 0
            saved = last or scored or (group.first and run.save_is_due(recipe.save_every_s))
            if at_point or saved:
                run.require_finite(batches.episodes)
            means = run.point(record) if at_point else {}
            if group.first:
                if at_point:
                    curve.add(record.step, means | {"val_loss": validate(state.best, data.validation)})
                if saved:
                    _require_frozen(job.encoder)
                    run.save(finished=last)
                if scored:
                    curve.add(record.step, {"success": _score(job, data, run, candidates, pool)})
            if scored or last:
                group.wait()
    if group.first:
        candidates.choose(out)
    group.wait()
    return _result(out, identity)


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


def batch_loss(policy: ChunkPolicy, recipe: Recipe, group: Group) -> Callable[[Batch], Tensor]:
    """The policy's loss in the recipe's precision, with gradients averaged over the group."""
    compute = group.wrap(_Loss(policy))
    if recipe.compile:
        compute = torch.compile(compute)

    def loss(batch: Batch) -> Tensor:
        with torch.autocast(group.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            return compute(batch)

    return loss


class _Loss(nn.Module):
    """A policy whose forward is its loss: what DDP wraps."""

    def __init__(self, policy: ChunkPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: Batch) -> Tensor:
        """Scalar."""
        return self.policy.loss(batch) * batch.weight


@dataclass(frozen=True)
class EpochSampler:
    """`batch(step)`: windows in a fresh order each epoch, a pure function of (seed, step).

    Of `world` processes, number `rank` gets every `world`-th row of a batch.
    """

    split: Split
    batch_size: int
    seed: int
    views: int
    rank: int = 0
    world: int = 1

    def __call__(self, step: int) -> Batch:
        rows, views = self.rows(step)
        if self.world == 1:
            return self.split.gather(rows, views)
        share = slice(self.rank, None, self.world)
        unmasked = self.split.windows.action_mask[rows]
        weight = self.world * unmasked[share].sum() / unmasked.sum()
        return replace(self.split.gather(rows[share], views[share]), weight=float(weight))

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Windows of the whole batch, and the view that each is seen through."""
        size = min(self.batch_size, len(self.split))
        epoch, place = divmod(step, max(1, len(self.split) // size))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.split))
        rows = order[place * size : (place + 1) * size]
        return rows, np.random.default_rng((self.seed, epoch, place)).integers(self.views, size=len(rows))

    def episodes(self, step: int) -> list[str]:
        """Ids of the episodes that the batch draws from."""
        return self.split.episodes(self.rows(step)[0])


@torch.no_grad()
def validate(policy: Any, split: Split) -> float:
    """Mean loss over evenly spaced held-out windows, plain view, same noise every time."""
    policy.eval()
    rows = np.linspace(0, len(split) - 1, min(len(split), 256 * VALIDATION_BATCHES)).astype(np.int64)
    torch.manual_seed(0)
    parts = np.array_split(rows, min(VALIDATION_BATCHES, len(rows)))
    losses = [policy.loss(split.gather(part, np.zeros(len(part), np.int64))) for part in parts]
    return float(torch.stack(losses).mean())


def new_policy(config: Mapping[str, Any], data: TrainingData, seed: int) -> ChunkPolicy:
    """An untrained policy that knows the statistics of its training tokens."""
    torch.manual_seed(seed)
    policy = build_policy(config, data.shapes)
    for camera, (mean, std) in data.token_statistics.items():
        policy.observation.set_statistics(camera, mean, std)
    return policy


def new_state(policy: ChunkPolicy, recipe: Recipe, windows: int, group: Group) -> TrainState:
    if recipe.batch_size % group.world:
        raise S2RobotError(f"batch_size={recipe.batch_size} does not divide by {group.world} processes")
    steps = recipe.steps(windows)
    return TrainState.create(
        policy,
        Schedule(recipe.lr, steps, min(recipe.warmup, steps // 4)),
        seed=recipe.seed,
        stream=group.rank,
        weight_decay=recipe.weight_decay,
        betas=(recipe.beta1, recipe.beta2),
        clip=recipe.clip,
        ema=recipe.ema,
    )


def _require_labels(job: Job, data: TrainingData) -> None:
    weight = job.policy.get("aux_weight")
    if weight and data.train.object_xy is None:
        raise S2RobotError(
            f"aux_weight={weight}: {job.store.path} has no label target_pos_w of the named object to learn from; give "
            "policy.aux_weight=0"
        )


def _require_frozen(encoder: Encoder) -> None:
    """The weights still are those that the fingerprint names, through encoding and training."""
    if encoder.sizes and encoder.weights_sha256() != encoder.spec()["weights_sha256"]:
        raise AssertionError("the frozen encoder's weights changed; nothing that was made with it can be trusted")
