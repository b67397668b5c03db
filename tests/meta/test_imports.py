"""What importing pulls in, extra by extra, in child processes without the packages of the other extras."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN = {"torch", "transformers", "diffusers"}
DATA = {"zarr", "fsspec", "safetensors", "tqdm", "scipy"}
SIM = {"mujoco", "robosuite", "gymnasium", "numba", "cv2"}
REPORT = {"statsmodels", "matplotlib", "jinja2", "av", "PIL"}
ROBOT = {"onnxruntime", "websockets", "msgpack", "mcap", "mcap_ros2", "pydantic"}
ON_ROBOTS = {
    "brain", "bundle", "cadence", "check", "chunks", "client", "clock", "control", "deciders", "dry_runs", "gate",
    "limiter", "limits", "log", "parse", "replay", "robots", "runtime", "server", "session", "token", "wire",
}  # fmt: skip

CHILD = """
import importlib, pkgutil, sys
refused, rooms = set(sys.argv[1].split(",")), sys.argv[2].split(",")

class Without:  # as if never installed: libraries that ask whether a package is there get a plain no
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in refused else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for room in rooms:
    module = importlib.import_module(room)
    for inner in pkgutil.walk_packages(getattr(module, "__path__", []), room + "."):
        importlib.import_module(inner.name)
"""


def child(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder, timeout=120)


def single_modules() -> set[str]:
    """The modules of s2robot itself, such as s2robot.types."""
    return {f"s2robot.{path.stem}" for path in (ROOT / "s2robot").glob("*.py") if path.stem != "__init__"}


@pytest.mark.parametrize(
    ("refused", "rooms"),
    [
        (TRAIN | DATA | SIM | REPORT | ROBOT, {"s2robot.cli", "s2robot.configs", *single_modules()}),
        (TRAIN | SIM | REPORT | ROBOT, {"s2robot.data"}),
        (SIM | REPORT | ROBOT, {"s2robot.encoders", "s2robot.policies"}),
        (TRAIN | {"zarr", "statsmodels", "matplotlib", "jinja2", "av"}, {"s2robot.envs"}),
        (TRAIN | SIM | {"zarr"}, {"s2robot.pipeline.report", "s2robot.pipeline.statistics"}),
        (TRAIN | (DATA - {"scipy"}) | SIM | (REPORT - {"PIL"}), {f"s2robot.deploy.{name}" for name in ON_ROBOTS}),
    ],
    ids=["base", "data", "train", "sim", "report", "robot"],
)
def test_an_extra_suffices_for_its_rooms(refused: set[str], rooms: set[str], tmp_path: Path) -> None:
    result = child("-c", CHILD, ",".join(sorted(refused)), ",".join(sorted(rooms)), folder=tmp_path)
    assert result.returncode == 0, result.stderr


def test_every_module_of_the_robots_side_is_named_here() -> None:
    found = {path.stem for path in (ROOT / "s2robot" / "deploy").iterdir() if not path.stem.startswith("__")}
    assert found - {"export", "bench", "report"} == ON_ROBOTS


def test_importing_the_package_imports_nothing_else(tmp_path: Path) -> None:
    code = "import sys; before = set(sys.modules); import s2robot; print(*sorted(set(sys.modules) - before))"
    assert child("-c", code, folder=tmp_path).stdout.split() == ["s2robot"]


@pytest.mark.parametrize("name", ["envs", "policies"])
def test_the_top_level_folders_refuse_to_be_imported_by_their_bare_names(name: str) -> None:
    result = child("-c", f"import {name}")
    assert f"import this package as s2robot.{name}, not as '{name}'" in result.stderr


def test_folders_of_the_same_names_in_the_working_folder_change_nothing(tmp_path: Path) -> None:
    for name in ("envs", "policies", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported the wrong folder')\n")
    code = "import s2robot.envs, s2robot.policies, s2robot.configs"
    result = child("-c", code, folder=tmp_path)
    assert result.returncode == 0, result.stderr
