"""Every YAML file composes, and every command has what the command line expects of it."""

from __future__ import annotations

from pathlib import Path

import pytest
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
    assert set(configs.names()) <= set(command_names())


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


@pytest.mark.parametrize("name", configs.names("policy"))
def test_a_policys_defaults_in_code_are_those_in_its_yaml(name: str) -> None:
    import inspect

    from s2robot.targets import resolve_target

    for plain in nested(configs.choice("policy", name)):
        parameters = inspect.signature(resolve_target(plain["_target_"])).parameters
        for key, value in plain.items():
            if key != "_target_" and not isinstance(value, dict):
                assert parameters[key].default == value, f"{name}: {key}"


def nested(plain: dict) -> list[dict]:  # type: ignore[type-arg]
    """A mapping with a `_target_` and those inside it."""
    return [
        plain,
        *(m for value in plain.values() if isinstance(value, dict) and "_target_" in value for m in nested(value)),
    ]


def test_the_recipe_in_code_is_the_recipe_in_train_yaml() -> None:
    from s2robot.pipeline.train import Recipe, recipe_from

    assert recipe_from(configs.compose("train", ["store=a", "out=b"]).recipe) == Recipe()
