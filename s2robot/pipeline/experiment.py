"""What `s2robot compare` compares, checked as a whole before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from s2robot.configs import choice, listed
from s2robot.data.config import DataConfig
from s2robot.encoders.interface import Encoder
from s2robot.encoders.load import named_encoders
from s2robot.errors import S2RobotError, unknown_name
from s2robot.pipeline.recipe import Recipe, recipe_from
from s2robot.pipeline.seeds import TEST_SEEDS, VALIDATION_SEEDS, parse_seeds
from s2robot.policies.batch import Shapes
from s2robot.policies.policy import build_policy

POLICY_KEYS = ("policy", "policy_overrides", "recipe")  # of an arm; the others are its encoder's
LISTS = ("tasks", "arms", "cameras", "train_seeds")  # one alone may stand without brackets


@dataclass(frozen=True)
class Arm:
    """What is trained and judged: a policy on an encoder, both as configurations, and how it is optimised."""

    name: str
    encoder: Mapping[str, Any]
    policy: Mapping[str, Any]
    recipe: Mapping[str, Any]

    def recipe_of(self, train_seed: int) -> Recipe:
        """How one run is trained. Raises S2RobotError for an unknown key or a value of another type."""
        return recipe_from(self.policy, {**self.recipe, "seed": train_seed})

    def check(self, encoder: Encoder, cameras: tuple[str, ...], frame_px: int) -> None:
        """Raise S2RobotError for frames that are too small for the encoder, and for a policy that cannot be built on
        its tokens, whatever the task.
        """
        encoder.check_frame(frame_px, frame_px)
        recipe = self.recipe_of(0)
        DataConfig.of_policy(self.policy, cameras, recipe.views, recipe.stride, recipe.validation_fraction)
        seen, scales = (cameras if encoder.sizes else ()), max(1, len(encoder.sizes))
        any_task = {"proprio": 1, "goal": 1, "action": 1}
        build_policy(self.policy, Shapes(seen, encoder.grid, encoder.channels, scales=scales, **any_task))

    def setup(self) -> dict[str, Any]:
        """Policy and recipe, for the report."""
        settings = {k: v for k, v in self.recipe_of(0).settings().items() if k != "seed"}
        return {"policy": {k: v for k, v in self.policy.items() if k != "recipe"}, "recipe": settings}


@dataclass(frozen=True)
class Experiment:
    """What is compared: tasks x arms x training seeds, on one range of test seeds, or of validation seeds to choose by.

    An arm is an encoder's name, or `{name: {encoder: s2, path: ...}}` (`named_encoders`). It has the experiment's
    policy with its `policy_overrides` and `recipe`, or replaces them: `{name: {encoder: s2, policy: flow,
    policy_overrides: {...}, recipe: {...}}}`. A policy of an arm's own comes with its own recipe, not with the
    experiment's.
    """

    tasks: tuple[str, ...]
    arms: tuple[str | Mapping[str, Any], ...]
    policy: str
    demonstrations: int
    frame_px: int
    cameras: tuple[str, ...]
    seeds: str
    train_seeds: tuple[int, ...]
    recipe: Mapping[str, Any]
    policy_overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("recipe", "policy_overrides"):
            if not isinstance(value := getattr(self, key), Mapping):
                raise S2RobotError(f"{key}={value!r} holds no keys; give some with their values: {key}={{KEY: VALUE}}")
        for key in ("demonstrations", "frame_px"):
            if not isinstance(value := getattr(self, key), int) or value < 1:
                raise S2RobotError(f"{key}={value!r}; give a whole number of at least 1")
        seeds = parse_seeds(self.seeds)
        if not any(seeds[0] in apart and seeds[-1] in apart for apart in (TEST_SEEDS, VALIDATION_SEEDS)):
            raise S2RobotError(
                f"seeds={self.seeds} leave those set apart for tests, {TEST_SEEDS.start}:{TEST_SEEDS.stop}, and those "
                f"for choosing a recipe, {VALIDATION_SEEDS.start}:{VALIDATION_SEEDS.stop}"
            )
        if not (self.tasks and self.arms and self.train_seeds and self.cameras):
            raise S2RobotError("an experiment needs at least one task, one arm, one camera and one training seed")
        for name in self.tasks:  # what is mistyped is said now, not after an hour
            self.task_config(name)
        for arm in self.each_arm():
            arm.recipe_of(self.train_seeds[0])

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Experiment:
        """From plain JSON types. Raises S2RobotError for a key that an experiment does not have."""
        known = [f.name for f in fields(cls)]
        for key in config:
            if key not in known:
                raise unknown_name("key of an experiment", str(key), known)
        lists = {k: listed(v) for k, v in config.items() if k in LISTS}
        plain: dict[str, Any] = {**config, **lists}
        return cls(**plain)

    def only(self, names: Sequence[str]) -> Experiment:
        """Those of its arms, or all where no name is given. Raises S2RobotError for one that it does not have."""
        by_name = dict(zip((arm.name for arm in self.each_arm()), self.arms, strict=True))
        for name in names:
            if name not in by_name:
                raise unknown_name("arm of the experiment", name, by_name)
        return replace(self, arms=tuple(by_name[name] for name in names)) if names else self

    def task_config(self, name: str) -> dict[str, Any]:
        """The task as it is demonstrated and evaluated here."""
        return choice("task", name, {"frame_px": self.frame_px}) | {"cameras": list(self.cameras)}

    def each_arm(self) -> list[Arm]:
        """The arms, in order. Raises S2RobotError for what is unknown or given twice."""
        own = {name: content for entry in self.arms if isinstance(entry, Mapping) for name, content in entry.items()}
        encoders = named_encoders(_without_policy(entry) for entry in self.arms)
        return [self._arm(name, config, own.get(name, {})) for name, config in encoders.items()]

    def _arm(self, name: str, encoder: Mapping[str, Any], own: Mapping[str, Any]) -> Arm:
        shared = "policy" not in own
        overrides = own.get("policy_overrides", self.policy_overrides if shared else {})
        policy = choice("policy", self.policy if shared else own["policy"], overrides)
        return Arm(name, encoder, policy, {**(self.recipe if shared else {}), **own.get("recipe", {})})

    def setup(self) -> dict[str, Any]:
        """What arms share, and under `own` what some have instead, for the report."""
        shared = {"demonstrations": self.demonstrations, "frame_px": self.frame_px, "cameras": list(self.cameras)}
        common = self._arm("", {}, {}).setup()
        own = {arm.name: arm.setup() for arm in self.each_arm() if arm.setup() != common}
        return {**shared, **common, "own": own}


def _without_policy(entry: str | Mapping[str, Any]) -> str | Mapping[str, Any]:
    """An arm's entry as `named_encoders` takes it."""
    if isinstance(entry, str):
        return entry
    return {
        name: {k: v for k, v in content.items() if k not in POLICY_KEYS} if isinstance(content, Mapping) else content
        for name, content in entry.items()
    }
