"""`s2robot train`: cached features and demonstrations to a policy checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2robot import __version__
from s2robot.data.actions import ActionChoice
from s2robot.data.episodes import EpisodeStore
from s2robot.data.features import SHIFT_VERSION, FeatureCache
from s2robot.data.transforms import to_json
from s2robot.data.windows import Horizons
from s2robot.encoders.interface import Encoder
from s2robot.errors import MismatchError, S2RobotError
from s2robot.pipeline.checkpoint import load_tensors, newest_checkpoint, save_checkpoint
from s2robot.pipeline.dataset import Split, TrainingData, load_training_data
from s2robot.pipeline.fit import Schedule, TrainState, fit
from s2robot.policies.policy import ChunkPolicy, build_policy
from s2robot.progress import progress, say
from s2robot.storage import append_line, cut_torn_line

VALIDATION_BATCHES = 8


@dataclass(frozen=True)
class Recipe:
    """How a policy is optimised; together with data, encoder and policy it determines the checkpoint.

    What has no default here stands in the policy's configuration.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup: int
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 1.0
    ema: bool = True
    views: int = 1
    validation_fraction: float = 0.05
    seed: int = 0
    save_every_s: float = 30.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.views < 0 or not 0 < self.validation_fraction < 1:
            raise S2RobotError(
                f"epochs={self.epochs} and batch_size={self.batch_size} must be at least 1, "
                f"views={self.views} at least 0 and validation_fraction={self.validation_fraction} between 0 and 1"
            )


def recipe_from(policy: Mapping[str, Any], config: Mapping[str, Any]) -> Recipe:
    """The policy's own recipe with what `config` says otherwise; None there says nothing.

    Raises S2RobotError for an unknown key or a value of another type.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    said = {key: value for key, value in config.items() if value is not None}
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Recipe), dict(policy.get("recipe", {})), said)
        recipe = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        allowed = ", ".join(field.name for field in fields(Recipe))
        raise S2RobotError(f"recipe: {str(error).splitlines()[0]}; its keys are {allowed}") from error
    assert isinstance(recipe, Recipe)
    return recipe


@dataclass(frozen=True)
class TrainResult:
    """Where the checkpoint lies and what it took; a finished run that is asked for again costs nothing."""

    checkpoint: Path
    train_s: float
    curve: list[dict[str, float]]


def train(
    store: EpisodeStore,
    encoder: Encoder,
    encoder_config: Mapping[str, Any],
    cache: FeatureCache,
    policy_config: Mapping[str, Any],
    cameras: tuple[str, ...],
    recipe: Recipe,
    out: Path,
    device: torch.device,
) -> TrainResult:
    """Train one policy into `out`, going on from the newest intact checkpoint there.

    Raises MismatchError when `out` holds a run of other data, encoder, policy or recipe.
    """
    identity = _identity(store, encoder, policy_config, cameras, recipe)
    out.mkdir(parents=True, exist_ok=True)
    finished = _finished(out, identity)
    if finished:
        return finished
    horizons = Horizons(*(int(policy_config[key]) for key in ("observation_horizon", "chunk", "execute")))
    actions = ActionChoice(**policy_config["actions"])
    data = load_training_data(
        store, encoder, cache, cameras, recipe.views, horizons, recipe.validation_fraction, device, actions
    )
    policy = _new_policy(policy_config, data, recipe.seed).to(device)
    steps = recipe.epochs * max(1, len(data.train) // recipe.batch_size)
    state = TrainState.create(
        policy,
        Schedule(recipe.lr, steps, min(recipe.warmup, steps // 4)),
        seed=recipe.seed,
        weight_decay=recipe.weight_decay,
        betas=(recipe.beta1, recipe.beta2),
        clip=recipe.clip,
        ema=recipe.ema,
    )
    cut_torn_line(out / "curve.jsonl")  # a kill may tear the last line; the resumed run writes that point again
    spent_s, losses = _resume(state, out, identity)
    manifest = _manifest(store, encoder, encoder_config, policy_config, cameras, recipe, data, identity)
    batches = EpochSampler(data.train, recipe.batch_size, recipe.seed, max(1, recipe.views))
    start_s = saved_s = time.perf_counter()
    for record in progress(fit(policy.loss, batches, state), steps, f"train {out.name}", "step", state.step):
        losses.append(record.loss)
        now_s = time.perf_counter()
        last = record.step == steps
        if record.step % max(1, steps // 20) == 0 or last:
            point = {"step": record.step, "train_loss": float(torch.stack(losses).mean()), "lr": record.lr}
            append_line(out / "curve.jsonl", json.dumps(point | {"val_loss": validate(state.best, data.validation)}))
            losses.clear()
        if last or now_s - saved_s > recipe.save_every_s:
            _require_frozen(encoder)
            saved_s = now_s
            timed = {**manifest, "train_s": spent_s + now_s - start_s, "finished": last}
            timed["losses_since_point"] = torch.stack(losses).tolist() if losses else []
            files = {"policy": state.best.state_dict(), "train_state": state.tensors()}
            save_checkpoint(out / "checkpoints", record.step, files, timed)
    result = _finished(out, identity)
    assert result is not None
    return result


@dataclass(frozen=True)
class EpochSampler:
    """`batch(step)`: windows in a fresh order each epoch, a pure function of (seed, step)."""

    split: Split
    batch_size: int
    seed: int
    views: int

    def __call__(self, step: int) -> Any:
        size = min(self.batch_size, len(self.split))
        epoch, place = divmod(step, max(1, len(self.split) // size))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.split))
        rows = order[place * size : (place + 1) * size]
        views = np.random.default_rng((self.seed, epoch, place)).integers(self.views, size=len(rows))
        return self.split.gather(rows, views)


@torch.no_grad()
def validate(policy: Any, split: Split) -> float:
    """Mean loss over evenly spaced held-out windows, plain view, same noise every time."""
    policy.eval()
    rows = np.linspace(0, len(split) - 1, min(len(split), 256 * VALIDATION_BATCHES)).astype(np.int64)
    torch.manual_seed(0)
    losses = [
        policy.loss(split.gather(part, np.zeros(len(part), np.int64)))
        for part in np.array_split(rows, VALIDATION_BATCHES)
    ]
    return float(torch.stack(losses).mean())


def _new_policy(config: Mapping[str, Any], data: TrainingData, seed: int) -> ChunkPolicy:
    """An untrained policy that knows the statistics of its training tokens."""
    torch.manual_seed(seed)
    policy = build_policy(config, data.shapes)
    for camera, (mean, std) in data.token_statistics.items():
        policy.observation.set_statistics(camera, mean, std)
    return policy


def _identity(
    store: EpisodeStore, encoder: Encoder, policy: Mapping[str, Any], cameras: tuple[str, ...], recipe: Recipe
) -> dict[str, Any]:
    settings = {k: v for k, v in asdict(recipe).items() if k != "save_every_s"} | {"shift_version": SHIFT_VERSION}
    return {
        "dataset": store.dataset_fingerprint(),
        "encoder": encoder.fingerprint,
        "policy": {key: value for key, value in policy.items() if key != "recipe"},
        "cameras": list(cameras),
        "recipe": settings,
    }


def _manifest(
    store: EpisodeStore,
    encoder: Encoder,
    encoder_config: Mapping[str, Any],
    policy_config: Mapping[str, Any],
    cameras: tuple[str, ...],
    recipe: Recipe,
    data: TrainingData,
    identity: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything needed to act again: configs, specs, normalisers, fingerprints, versions."""
    return {
        "kind": "policy",
        "identity": dict(identity),
        "encoder": {"config": dict(encoder_config), "spec": encoder.spec()},
        "policy": identity["policy"],
        "recipe": asdict(recipe),
        "cameras": list(cameras),
        "spec": store.spec.to_json(),
        "shapes": data.shapes.to_json(),
        "normalise": {"proprio": to_json(data.proprio), "action": to_json(data.action)},
        "versions": {"s2robot": __version__, "torch": str(torch.__version__)},
    }


def _require_frozen(encoder: Encoder) -> None:
    """The weights still are those that the fingerprint names, through encoding and training."""
    if encoder.sizes and encoder.weights_sha256() != encoder.spec()["weights_sha256"]:
        raise AssertionError("the frozen encoder's weights changed; nothing that was made with it can be trusted")


def _resume(state: TrainState, out: Path, identity: Mapping[str, Any]) -> tuple[float, list[torch.Tensor]]:
    """Restore the newest intact checkpoint; returns the seconds spent before it and the losses that its next point of
    the curve averages.
    """
    found = newest_checkpoint(out / "checkpoints")
    if found is None:
        (out / "curve.jsonl").unlink(missing_ok=True)
        return 0.0, []
    path, manifest = found
    _require_same_run(out, manifest["identity"], identity)
    state.restore(load_tensors(path, "train_state"), manifest["step"])
    say(f"resuming {out} at step {state.step}")
    return float(manifest["train_s"]), [torch.tensor(loss) for loss in manifest["losses_since_point"]]


def _finished(out: Path, identity: Mapping[str, Any]) -> TrainResult | None:
    found = newest_checkpoint(out / "checkpoints")
    if found is None or not found[1].get("finished"):
        return None
    path, manifest = found
    _require_same_run(out, manifest["identity"], identity)
    points = {p["step"]: p for p in map(json.loads, (out / "curve.jsonl").read_text().splitlines())}
    return TrainResult(path, float(manifest["train_s"]), [points[step] for step in sorted(points)])


def _require_same_run(out: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    changed = sorted(key for key in ours if theirs.get(key) != ours[key])
    if changed:
        raise MismatchError(
            f"{out} holds a run with another {', '.join(changed)}; give another out= folder or delete that one"
        )
