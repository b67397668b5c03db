"""What `s2robot compare` compares, checked as a whole before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from s2robot.configs import choice
from s2robot.encoders.load import named_encoders
from s2robot.errors import S2RobotError, unknown_name
from s2robot.pipeline.evaluate import parse_seeds
from s2robot.pipeline.recipe import Recipe, recipe_from

TEST_SEEDS = range(20_000, 30_000)


@dataclass(frozen=True)
class Experiment:
    """What is compared: tasks x arms x training seeds, on one range of test seeds.

    An arm is an encoder's name, or `{name: {encoder: s2, path: ...}}` (`named_encoders`).
    """

    tasks: tuple[str, ...]
    arms: tuple[str | Mapping[str, Any], ...]
    policy: str
    demonstrations: int
    frame_px: int
    cameras: tuple[str, ...]
    test_seeds: str
    train_seeds: tuple[int, ...]
    recipe: Mapping[str, Any]
    policy_overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seeds = parse_seeds(self.test_seeds)
        if seeds[0] not in TEST_SEEDS or seeds[-1] not in TEST_SEEDS:
            raise S2RobotError(
                f"test_seeds={self.test_seeds} leave those set apart for tests, {TEST_SEEDS.start}:{TEST_SEEDS.stop}"
            )
        if not (self.tasks and self.arms and self.train_seeds and self.cameras):
            raise S2RobotError("an experiment needs at least one task, one arm, one camera and one training seed")
        for name in self.tasks:  # what is mistyped is said now, not after an hour
            self.task_config(name)
        self.encoder_configs()
        self.policy_config()
        self.recipe_of(self.train_seeds[0])

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Experiment:
        """From plain JSON types. Raises S2RobotError for a key that an experiment does not have."""
        known = [f.name for f in fields(cls)]
        for key in config:
            if key not in known:
                raise unknown_name("key of an experiment", str(key), known)
        plain: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in config.items()}
        return cls(**plain)

    def task_config(self, name: str) -> dict[str, Any]:
        """The task as it is demonstrated and evaluated here."""
        return choice("task", name, {"frame_px": self.frame_px}) | {"cameras": list(self.cameras)}

    def encoder_configs(self) -> dict[str, dict[str, Any]]:
        """Arm -> its encoder's configuration."""
        return named_encoders(self.arms)

    def policy_config(self) -> dict[str, Any]:
        """The policy with its overrides."""
        return choice("policy", self.policy, self.policy_overrides)

    def recipe_of(self, train_seed: int) -> Recipe:
        """How one run is trained."""
        return recipe_from(self.policy_config(), {**self.recipe, "seed": train_seed})

    def setup(self) -> dict[str, Any]:
        """What all arms share, for the report."""
        settings = {k: v for k, v in self.recipe_of(0).settings().items() if k != "seed"}
        shared = {"demonstrations": self.demonstrations, "frame_px": self.frame_px, "cameras": list(self.cameras)}
        policy = {k: v for k, v in self.policy_config().items() if k != "recipe"}
        return {**shared, "policy": policy, "recipe": settings}
