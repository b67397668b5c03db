"""The YAML configurations, composed with Hydra: `<command>.yaml` or `<command>_<verb>.yaml` at the top, one folder per
group.

    config = compose("compare", ["experiment=demo", "seeds=20000:20100"])

Values that look like `20000:20100` stay text, on the command line and in YAML.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from s2robot.errors import S2RobotError, unknown_name

if TYPE_CHECKING:
    from omegaconf import DictConfig


def names(group: str = "") -> list[str]:
    """Names of the YAML files in a group's folder, or of the commands' files for the top; sorted."""
    folder = resources.files(__name__).joinpath(group)
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def file_of(command: str, verb: str = "") -> str | None:
    """Name of the YAML file with the keys of a command's verb, or of the command; None for a command without keys."""
    found = names()
    return next((file for file in (f"{command}_{verb}", command) if file in found), None)


def listed(value: Any) -> tuple[Any, ...]:
    """The entries of a key that takes a list: one thing alone needs no brackets, null is none."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def choice(group: str, name: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The plain mapping of `<group>/<name>.yaml` with `overrides` merged into it.

    A mapping in `overrides` that names a `_target_` takes the place of what was there: another part has other keys.
    Raises S2RobotError naming the choices, or a key to override that it does not have.
    """
    from omegaconf import OmegaConf

    if name not in names(group):
        raise unknown_name(group, name, names(group))
    text = resources.files(__name__).joinpath(group, f"{name}.yaml").read_text()
    with _ranges_are_text():
        plain: Any = OmegaConf.to_container(OmegaConf.create(text))
    return _merged(plain, overrides or {}, f"key of {group} {name}")


def _merged(plain: Mapping[str, Any], overrides: Mapping[str, Any], what: str, prefix: str = "") -> dict[str, Any]:
    merged = dict(plain)
    for key, value in overrides.items():
        if key not in plain:
            raise unknown_name(what, f"{prefix}{key}", [f"{prefix}{known}" for known in plain])
        both = isinstance(value, Mapping) and isinstance(plain[key], Mapping) and "_target_" not in value
        merged[key] = _merged(plain[key], value, what, f"{prefix}{key}.") if both else value
    return merged


def compose(name: str, overrides: Sequence[str] = (), complete: bool = True) -> DictConfig:
    """The configuration `<name>.yaml` with `overrides` in Hydra's grammar (`key=value`, `group=choice`, `+key=value`).

    `complete` demands a value for every key whose default is `???` and resolves interpolations.
    Raises S2RobotError for a malformed override, an unknown key or an unknown choice, naming the nearest valid one.
    """
    config, _ = compose_with_choices(name, overrides)
    if complete:
        _require_complete(name, config)
    return config


def compose_with_choices(name: str, overrides: Sequence[str] = ()) -> tuple[DictConfig, dict[str, str | None]]:
    """The configuration, not checked for completeness, and what was chosen in each of its groups."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if name not in names():
        raise unknown_name("configuration", name, names())
    try:
        with _ranges_are_text(), hydra.initialize_config_module(__name__, version_base="1.3"):
            config = hydra.compose(name, list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise _explained(error, name, overrides) from error
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return config, {str(k): v for k, v in choices.items() if not str(k).startswith("hydra")}  # type: ignore[union-attr]


def _require_complete(name: str, config: DictConfig) -> None:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise S2RobotError(f"{name}: {_first_line(error)}") from error
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        wanted = " ".join(f"{key}=..." for key in missing)
        command = name.replace("_", " ")
        raise S2RobotError(f"{command} needs {wanted}; see `s2robot {command} --help`")


@contextlib.contextmanager
def _ranges_are_text() -> Iterator[None]:
    """While configurations are read, YAML 1.1's base-60 integers are text: it would read `seeds: 10:50` as 650.

    OmegaConf derives its loader from SafeLoader at every load and offers no hook of its own.
    """
    from yaml import SafeLoader

    before = SafeLoader.yaml_implicit_resolvers
    integer = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$")
    SafeLoader.yaml_implicit_resolvers = {
        first: [(tag, integer if tag == "tag:yaml.org,2002:int" else pattern) for tag, pattern in resolvers]
        for first, resolvers in before.items()
    }
    try:
        yield
    finally:
        SafeLoader.yaml_implicit_resolvers = before


def _explained(error: Exception, name: str, overrides: Sequence[str]) -> S2RobotError:
    """Hydra's and OmegaConf's messages as one line with the valid names."""
    from hydra.errors import MissingConfigException, OverrideParseException

    if isinstance(error, OverrideParseException):
        return S2RobotError(
            f"cannot read {error.override!r}: write key=value; a value with blanks or any of =,[]{{}}~ goes in quotes "
            "inside the shell's own, as in 'key=\"a, b\"'"
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return unknown_name(group, choice, error.options or names(group))
    key = next((k for k in (getattr(e, "full_key", None) for e in (error, error.__cause__)) if k), None)
    if key is not None:
        return _unknown_key(str(key), name, overrides)
    return S2RobotError(f"{name}: {_first_line(error)}")


def _unknown_key(key: str, name: str, overrides: Sequence[str]) -> S2RobotError:
    """Names the keys beside the wrong one, in the configuration as it is without it."""
    from omegaconf import DictConfig, OmegaConf

    others = [o for o in overrides if o.split("=", 1)[0].lstrip("+~") != key]
    config: Any = compose_with_choices(name, others if len(others) < len(overrides) else ())[0]
    parent = key.rpartition(".")[0]
    node = OmegaConf.select(config, parent) if parent else config
    prefix = f"{parent}." if parent else ""
    siblings = [prefix + str(k) for k in node] if isinstance(node, DictConfig) else []
    return unknown_name("key", key, siblings)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
