"""Every YAML file composes, and every command has what the command line expects of it."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from s2robot import configs
from s2robot.cli.main import command_names, load_command
from s2robot.errors import S2RobotError

ROOT = Path(__file__).parents[2]
GROUPS = sorted({path.parent.name for path in (ROOT / "configs").glob("*/*.yaml")})


@pytest.mark.parametrize("name", command_names())
def test_a_command_says_in_one_line_what_it_does(name: str) -> None:
    command = load_command(name)
    for text in (command.HELP, *command.VERBS.values()):
        assert 0 < len(text) <= 110
        assert "\n" not in text
    assert callable(command.run)


def test_every_configuration_at_the_top_belongs_to_a_command() -> None:
    for name in configs.names():
        command, _, verb = name.partition("_")
        assert command in command_names()
        assert not verb or verb in load_command(command).VERBS


@pytest.mark.parametrize("name", configs.names())
def test_a_command_composes_with_every_choice_of_its_groups(name: str) -> None:
    _, choices = configs.compose_with_choices(name)
    for group in choices:
        for choice in configs.names(group.split("@")[0]):
            _, taken = configs.compose_with_choices(name, [f"{group}={choice}"])
            assert taken[group] == choice


@pytest.mark.parametrize("path", [f"{g}/{n}" for g in GROUPS for n in configs.names(g)])
def test_a_yaml_file_is_data_without_resolvers(path: str) -> None:
    text = (ROOT / "configs" / f"{path}.yaml").read_text()
    assert OmegaConf.is_dict(OmegaConf.create(text))
    assert "${oc." not in text


def test_an_unknown_configuration_is_named_with_the_known_ones() -> None:
    with pytest.raises(S2RobotError, match="unknown configuration 'nothing_like_it'"):
        configs.compose("nothing_like_it")


def test_the_defaults_in_the_comments_of_train_are_those_of_the_recipe() -> None:
    from s2robot.pipeline.recipe import Recipe

    told = dict(re.findall(r"^  (\w+): null  # \[(.+?)\]", (ROOT / "configs" / "train.yaml").read_text(), re.MULTILINE))
    defaults = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
    assert {key: yaml.safe_load(value) for key, value in told.items()} == defaults


@pytest.mark.parametrize("name", configs.names("policy"))
def test_a_policy_is_called_like_its_file_and_brings_a_whole_recipe(name: str) -> None:
    from s2robot.pipeline.recipe import recipe_from

    policy = configs.choice("policy", name)
    assert policy["name"] == name
    recipe = recipe_from(policy, configs.compose("train", ["store=a", "out=b"]).recipe)
    assert recipe == recipe_from(policy, {})  # what both state is stated alike


def test_what_the_command_line_says_of_a_recipe_counts() -> None:
    from s2robot.pipeline.recipe import recipe_from

    policy = configs.choice("policy", "bc_mlp")
    said = recipe_from(policy, configs.compose("train", ["store=a", "out=b", "recipe.lr=0.5"]).recipe)
    assert said.lr == 0.5
    assert said.epochs == policy["recipe"]["epochs"]


@pytest.mark.parametrize(
    ("given", "entries"),
    [(None, ()), ("front", ("front",)), (0, (0,)), (["a", "b"], ("a", "b")), ({"k": 1}, ({"k": 1},)), ((), ())],
)
def test_one_thing_alone_needs_no_brackets(given: object, entries: tuple[object, ...]) -> None:
    assert configs.listed(given) == entries
    if isinstance(given, list):
        assert configs.listed(OmegaConf.create(given)) == entries
