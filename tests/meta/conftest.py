"""The repository's Python sources, parsed once."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Source:
    """One file: its dotted module name, its text and its syntax tree."""

    path: Path
    module: str
    text: str
    tree: ast.Module

    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    def calls(self) -> list[tuple[str, ast.Call]]:
        """Every call with the dotted text of what is called."""
        return [(ast.unparse(node.func), node) for node in ast.walk(self.tree) if isinstance(node, ast.Call)]


def parsed(folder: Path, prefix: str) -> list[Source]:
    """The .py files below a folder; links are not followed, so that every file comes once."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        if folder.joinpath(parts[0]).is_symlink():
            continue
        module = ".".join((prefix, *parts)).removesuffix(".__init__")
        text = path.read_text()
        found.append(Source(path, module, text, ast.parse(text)))
    return found


@pytest.fixture(scope="session")
def package() -> list[Source]:
    """The modules of s2robot, with those of the three top-level folders under the names they are imported by."""
    mapped = [source for name in ("configs", "envs", "policies") for source in parsed(ROOT / name, f"s2robot.{name}")]
    return parsed(ROOT / "s2robot", "s2robot") + mapped


@pytest.fixture(scope="session")
def programs(package: list[Source]) -> list[Source]:
    """Everything that is not a test."""
    return package + [source for name in ("benchmarks", "examples") for source in parsed(ROOT / name, name)]


@pytest.fixture(scope="session")
def tests() -> list[Source]:
    return parsed(ROOT / "tests", "tests")
