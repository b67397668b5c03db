"""One training as a value: data, encoder, policy and recipe, and the modules that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from s2robot import __version__
from s2robot.data.actions import require_pose
from s2robot.data.checks import check_actions
from s2robot.data.config import DataConfig
from s2robot.data.episodes import EpisodeStore
from s2robot.data.features import SHIFT_VERSION, FeatureCache
from s2robot.data.transforms import to_json
from s2robot.data.windows import flatten
from s2robot.encoders.interface import Encoder, weights_identity
from s2robot.encoders.load import load_encoder
from s2robot.errors import S2RobotError
from s2robot.pipeline.dataset import TrainingData, load_training_data, shapes_of
from s2robot.pipeline.distributed import Group
from s2robot.pipeline.encode import EncodeResult, encode_for_training
from s2robot.pipeline.fit import Schedule, TrainState
from s2robot.pipeline.recipe import Recipe
from s2robot.policies.batch import Batch
from s2robot.policies.policy import ChunkPolicy, build_policy


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
        actions = asdict(self.data_config().actions)
        adapted = self.policy["observation"].get("encoder")  # of low-rank adapters: its weights are the policy's
        weights = {} if adapted is None else {"adapted": weights_identity(load_encoder(adapted, device="cpu"))}
        return {
            "dataset": self.store.dataset_fingerprint(),
            "encoder": self.encoder.fingerprint,
            "policy": {k: v for k, v in self.policy.items() if k != "recipe"} | {"actions": actions},
            "cameras": list(self.cameras),
            **weights,
            "recipe": self.recipe.settings() | {"shift_version": SHIFT_VERSION},
        }

    def data_config(self) -> DataConfig:
        """What is read of the store. Raises S2RobotError where policy and recipe ask for what makes no sense."""
        recipe = self.recipe
        return DataConfig.of_policy(self.policy, self.cameras, recipe.views, recipe.stride, recipe.validation_fraction)

    def check(self, processes: int = 1) -> None:
        """Raise S2RobotError for whatever would stop training later: before hours of encoding."""
        config, flat, spec = self.data_config(), flatten(self.store), self.store.spec
        _require_whole_share(self.recipe, processes)
        check_actions(flat, spec.action)
        if config.actions.representation == "absolute":
            require_pose(spec.observation.proprio)
        config.split(self.store)
        config.windows(flat)
        build_policy(self.policy, shapes_of(self.encoder, spec, config))
        _require_labels(self.policy, "target_pos_w" in flat.labels)

    def encode(self) -> EncodeResult:
        """Fill the cache with what is missing."""
        return encode_for_training(self.store, self.encoder, self.cache, self.data_config())

    def data(self, device: torch.device) -> TrainingData:
        """Features and arrays, ready to be gathered."""
        return load_training_data(
            self.store, self.encoder, self.cache, self.data_config(), device, self.recipe.features
        )

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


def new_policy(config: Mapping[str, Any], data: TrainingData, seed: int) -> ChunkPolicy:
    """An untrained policy that knows the statistics of its training tokens.

    Raises S2RobotError where it is to learn from labels that the data do not have.
    """
    _require_labels(config, data.train.object_xy is not None)
    torch.manual_seed(seed)
    policy = build_policy(config, data.shapes)
    for camera, (mean, std) in data.token_statistics.items():
        policy.observation.set_statistics(camera, mean, std)
    return policy


def new_state(policy: ChunkPolicy, recipe: Recipe, windows: int, group: Group) -> TrainState:
    _require_whole_share(recipe, group.world)
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


def batch_loss(policy: ChunkPolicy, recipe: Recipe, group: Group) -> Callable[[Batch], Tensor]:
    """The policy's loss in the recipe's precision, with gradients averaged over the group.

    On a GPU the precision of float32 matrix products is set for the whole process: TF32 unless float32 was asked for.
    """
    if group.device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if recipe.precision == "float32" else "high")
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
        return self.policy.loss(batch)


def require_frozen(encoder: Encoder) -> None:
    """The weights still are those that the fingerprint names, through encoding and training."""
    if encoder.sizes and encoder.weights_sha256() != encoder.spec()["weights_sha256"]:
        raise AssertionError("the frozen encoder's weights changed; nothing that was made with it can be trusted")


def _require_whole_share(recipe: Recipe, processes: int) -> None:
    if recipe.batch_size % processes:
        raise S2RobotError(f"batch_size={recipe.batch_size} does not divide by {processes} processes")


def _require_labels(policy: Mapping[str, Any], there: bool) -> None:
    if policy.get("aux_weight") and not there:
        raise S2RobotError(
            f"aux_weight={policy['aux_weight']}: the demonstrations have no label target_pos_w of the named object to "
            "learn from; give policy.aux_weight=0"
        )
