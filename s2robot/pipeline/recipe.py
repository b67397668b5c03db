"""How a policy is optimised, as configuration: the policy's own recipe and what the user says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from s2robot.errors import S2RobotError
from s2robot.pipeline.seeds import VALIDATION_SEEDS, parse_seeds
from s2robot.pipeline.tokens import PLACES

PRECISIONS = ("float32", "tf32", "bf16")  # of training; TF32 is a GPU's, elsewhere the same as float32
MACHINE = ("save_every_s", "compile", "tensorboard", "features")  # keys that do not change what is trained


@dataclass(frozen=True)
class Recipe:
    """Together with data, encoder and policy it determines the checkpoint.

    What has no default here stands in the policy's configuration. An epoch is every `stride`-th step of every
    demonstration: neighbouring frames look alike, so more demonstrations teach more for the same work. With `rollouts`
    above 0 the policy is rolled out in the simulator at that many evenly spaced points of training, on `rollout_seeds`
    (validation seeds), and the checkpoint is the one of the point that solved most of them, the latest among equals;
    the last one otherwise.
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
    stride: int = 1
    validation_fraction: float = 0.05
    rollouts: int = 0
    rollout_seeds: str = "10000:10020"
    precision: str = "float32"
    seed: int = 0
    compile: bool = False
    features: str = "auto"
    tensorboard: bool = True
    save_every_s: float = 30.0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.stride) < 1 or min(self.views, self.rollouts, self.warmup) < 0:
            raise S2RobotError(
                f"epochs={self.epochs}, batch_size={self.batch_size} and stride={self.stride} must be at least 1, "
                f"views={self.views}, rollouts={self.rollouts} and warmup={self.warmup} at least 0"
            )
        if not 0 < self.validation_fraction < 1 or self.lr <= 0 or self.clip <= 0:
            raise S2RobotError(
                f"validation_fraction={self.validation_fraction} must lie between 0 and 1, lr={self.lr} and "
                f"clip={self.clip} above 0"
            )
        if min(self.seed, self.weight_decay) < 0 or not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise S2RobotError(
                f"seed={self.seed} and weight_decay={self.weight_decay} must be at least 0, beta1={self.beta1} and "
                f"beta2={self.beta2} at least 0 and below 1"
            )
        for key, value, allowed in (("precision", self.precision, PRECISIONS), ("features", self.features, PLACES)):
            if value not in allowed:
                raise S2RobotError(f"{key}={value}; allowed: {', '.join(allowed)}")
        seeds = parse_seeds(self.rollout_seeds)
        if seeds[0] not in VALIDATION_SEEDS or seeds[-1] not in VALIDATION_SEEDS:
            raise S2RobotError(
                f"rollout_seeds={self.rollout_seeds} leave those set apart for validation, "
                f"{VALIDATION_SEEDS.start}:{VALIDATION_SEEDS.stop}; test seeds are scored once, at the end"
            )

    def settings(self) -> dict[str, Any]:
        """What determines the checkpoint."""
        return {key: value for key, value in asdict(self).items() if key not in MACHINE}

    def steps(self, windows: int) -> int:
        """Steps of optimisation on so many windows: whole batches of every epoch, at least one."""
        return self.epochs * max(1, windows // self.batch_size)

    def rollout_steps(self, steps: int) -> list[int]:
        """The steps of training at which the policy is rolled out; the last one is always among them."""
        return sorted({max(1, round(steps * i / self.rollouts)) for i in range(1, self.rollouts + 1)})


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
