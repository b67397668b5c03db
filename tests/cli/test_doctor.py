"""`s2robot doctor` on this machine, in a bare installation, and where something is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest

from s2robot import gl
from s2robot.cli import _extras, doctor

BARE = """
import importlib.abc, importlib.metadata, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "mujoco", "robosuite", "zarr", "transformers", "scipy", "statsmodels"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
real = importlib.metadata.version

def version(name):
    if name not in ("numpy", "hydra-core", "jaxtyping"):
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)

importlib.metadata.version = version
from s2robot.cli.main import main
sys.exit(main(["doctor"]))
"""


@pytest.fixture
def quiet_gl(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """EGL works and OSMesa does not, without asking this machine."""
    answers = {"egl": gl.GlProbe("egl", True, "soft"), "osmesa": gl.GlProbe("osmesa", False, "not there")}
    monkeypatch.setattr(doctor, "probe_gl", answers.__getitem__)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    return monkeypatch


def test_doctor_works_in_a_bare_installation_and_names_the_missing_extras() -> None:
    result = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for extra in ("data", "train", "sim", "report"):
        assert f"not installed: pip install 's2robot[{extra}]'" in result.stdout
    assert "numpy 2" in result.stdout


def test_all_is_well_with_one_working_backend(quiet_gl: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    quiet_gl.setattr(doctor, "demands", lambda: {extra: [] for extra in ("", *_extras.SIGN_OF_EXTRA)})
    assert doctor.run({}, "") == 0
    assert capsys.readouterr().out.endswith("everything installed works\n")


def test_a_version_outside_the_allowed_range_is_a_problem(
    quiet_gl: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = {"mujoco": "3.12.0", "robosuite": None}
    real = _extras.installed_version
    quiet_gl.setattr(_extras, "installed_version", lambda name: versions[name] if name in versions else real(name))
    assert doctor.run({}, "") == 2
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("to mend")]
    assert any("mujoco 3.12.0 is installed, allowed is" in line for line in lines)
    assert any("robosuite is missing for [sim]: pip install --no-deps robosuite==1.5.2" in line for line in lines)


def test_no_backend_at_all_is_a_problem_with_the_apt_line(
    quiet_gl: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet_gl.setattr(doctor, "probe_gl", lambda backend: gl.GlProbe(backend, False, "not there"))
    assert doctor.run({}, "") == 2
    assert "to mend: nothing renders here: apt-get install -y libegl1 libgl1-mesa-dri" in capsys.readouterr().out


def test_a_backend_chosen_by_hand_must_work_itself(
    quiet_gl: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet_gl.setenv("MUJOCO_GL", "osmesa")
    assert doctor.run({}, "") == 2
    assert "to mend: nothing renders here: apt-get install -y libosmesa6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("torch", "pip install 's2robot[train]'"),
        ("cv2", "pip install 's2robot[sim]'"),
        ("PIL.Image", "pip install 's2robot[sim]'"),
        ("statsmodels", "pip install 's2robot[report]'"),
        ("robosuite", "pip install --no-deps robosuite==1.5.2"),
        ("nobody_knows_this", "pip install 's2robot[all]'"),
    ],
)
def test_every_module_has_the_line_that_installs_it(module: str, line: str) -> None:
    assert _extras.remedy(module) == line


def test_every_extra_but_all_and_dev_is_looked_at() -> None:
    from importlib import metadata

    declared = set(metadata.metadata("s2robot").get_all("Provides-Extra") or [])
    assert declared - {"all", "dev"} == set(_extras.SIGN_OF_EXTRA)
