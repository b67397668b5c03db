"""The choice of a GL backend, with real child processes."""

from __future__ import annotations

import sys

import pytest

from s2robot import gl
from s2robot.errors import S2RobotError

ANSWER = '{"seen": [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], "constant": %s, "name": "soft", "took_s": 0.1}'


@pytest.fixture
def no_choice(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A fresh Linux process that has not imported MuJoCo and was told nothing."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    monkeypatch.setattr(gl, "find_spec", lambda name: sys.__spec__)
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.setenv(name, "")
    return monkeypatch


def test_a_backend_that_is_already_chosen_is_kept_and_not_probed(no_choice: pytest.MonkeyPatch) -> None:
    no_choice.setenv("MUJOCO_GL", "OSMesa")
    no_choice.setattr(gl, "probe_gl", lambda backend: pytest.fail("probed"))
    assert gl.select_gl_backend() == "osmesa"


def test_one_backend_renders_the_four_colours_on_this_machine() -> None:
    pytest.importorskip("mujoco")
    probes = [gl.probe_gl(backend) for backend in gl.BACKENDS]
    assert any(probe.works for probe in probes), probes


def test_a_child_that_the_gl_library_kills_is_reported(no_choice: pytest.MonkeyPatch) -> None:
    no_choice.setattr(gl, "_CHILD", "import os; os.kill(os.getpid(), 11)")
    assert gl.probe_gl("egl") == gl.GlProbe("egl", False, "the GL library crashed (signal 11)")


def test_a_child_that_hangs_is_given_up(no_choice: pytest.MonkeyPatch) -> None:
    no_choice.setattr(gl, "_PROBE_TIMEOUT_S", 0.2)
    no_choice.setattr(gl, "_CHILD", "import time; time.sleep(60)")
    assert not gl.probe_gl("egl").works


def test_a_constant_frame_does_not_count_as_rendering() -> None:
    assert gl._judged("egl", 0, ANSWER % "false", "").works
    assert "constant" in gl._judged("egl", 0, ANSWER % "true", "").detail


def test_swapped_channels_do_not_count_as_rendering() -> None:
    swapped = (ANSWER % "false").replace("[1, 0, 0]", "[0, 0, 2]")
    assert "wrong colours" in gl._judged("egl", 0, swapped, "").detail


def test_without_any_backend_the_error_names_the_line_that_installs_one(no_choice: pytest.MonkeyPatch) -> None:
    no_choice.setattr(gl, "_CHILD", "raise SystemExit('nothing here')")
    with pytest.raises(S2RobotError, match="apt-get install -y libegl1 libgl1-mesa-dri"):
        gl.select_gl_backend()


def test_the_second_backend_is_taken_when_the_first_fails(no_choice: pytest.MonkeyPatch) -> None:
    child = "import os; assert os.environ['MUJOCO_GL'] == 'osmesa'; print('''%s''')" % (ANSWER % "false")
    no_choice.setattr(gl, "_CHILD", child)
    assert gl.select_gl_backend() == "osmesa"
    assert gl.os.environ["MUJOCO_GL"] == "osmesa"


def test_choosing_after_mujoco_was_imported_is_refused(no_choice: pytest.MonkeyPatch) -> None:
    no_choice.setitem(sys.modules, "mujoco", sys)
    with pytest.raises(S2RobotError, match="imported before a GL backend was selected"):
        gl.select_gl_backend()


def test_without_mujoco_the_error_names_the_extra(no_choice: pytest.MonkeyPatch) -> None:
    no_choice.setattr(gl, "find_spec", lambda name: None)
    with pytest.raises(S2RobotError, match=r"pip install 's2robot\[sim\]'"):
        gl.select_gl_backend()


def test_an_unknown_backend_is_named_with_the_known_ones() -> None:
    with pytest.raises(S2RobotError, match="known: egl, osmesa"):
        gl.probe_gl("elg")
