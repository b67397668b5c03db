"""The package list, the pins and the content of the wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAPPED = ("configs", "envs", "policies")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def shipped() -> set[str]:
    """Every tracked-looking file of the package, under the name that it has in the wheel."""
    folders = {f"s2robot/{name}": ROOT / name for name in MAPPED} | {"s2robot": ROOT / "s2robot"}
    return {
        f"{inside}/{path.relative_to(folder).as_posix()}"
        for inside, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
        if not (folder / path.relative_to(folder).parts[0]).is_symlink()
    }


def test_the_list_of_packages_is_that_of_the_tree() -> None:
    packages = {str(Path(name).parent).replace("/", ".") for name in shipped() if name.endswith("/__init__.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages


@pytest.mark.parametrize("name", MAPPED)
def test_a_mapped_folder_is_linked_into_the_package(name: str) -> None:
    link = ROOT / "s2robot" / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    copy = tmp_path / "copy"  # building leaves folders beside the sources
    for name in ("s2robot", *MAPPED):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        ".",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
    ]
    result = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    assert {name for name in names if ".dist-info/" not in name} == shipped()
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_every_requirement_is_pinned_to_a_version_that_it_allows() -> None:
    from packaging.requirements import Requirement

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    pins = {name.lower(): version for name, version in (line.split("==") for line in lines)}
    project = PROJECT["project"]
    declared = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    for requirement in map(Requirement, [*declared, *PROJECT["build-system"]["requires"]]):
        if requirement.name != "s2robot":
            assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement


def test_what_robosuite_needlessly_asks_for_is_not_pinned() -> None:
    pins = (ROOT / "constraints.txt").read_text()
    assert "robosuite==1.5.2" in pins
    for name in ("mink", "pynput", "evdev", "qpsolvers", "opencv-python"):
        assert f"\n{name}==" not in pins
