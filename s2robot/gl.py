"""Off-screen rendering without a display: which GL backend works here, found out in a child process.

A GL library may crash the process that loads it, and MuJoCo reads `MUJOCO_GL` once, when it is imported. So every
backend is tried in a child that renders one small scene and looks at its colours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ctypes.util import find_library
from dataclasses import dataclass
from importlib.util import find_spec

from s2robot.errors import S2RobotError, unknown_name

# backend -> what installs it on Debian and Ubuntu
BACKENDS = {
    "egl": "apt-get install -y libegl1 libgl1-mesa-dri",
    "osmesa": "apt-get install -y libosmesa6",
}
_LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
_PROBE_TIMEOUT_S = 60.0

# Four lit boxes, one colour per quadrant of the image: a frame that is black, constant, mirrored or upside down fails.
_CHILD = """
import json, time
start_s = time.perf_counter()
try:
    import mujoco
except ImportError as error:
    raise SystemExit(f"mujoco does not import: {error}")
boxes = {"1 0 0": "-1 1 0", "0 1 0": "1 1 0", "0 0 1": "-1 -1 0", "1 1 0": "1 -1 0"}
geoms = "".join(f'<geom type="box" size="1 1 .1" pos="{p}" rgba="{c} 1"/>' for c, p in boxes.items())
model = mujoco.MjModel.from_xml_string(
    f'<mujoco><worldbody><light pos="0 0 9"/>{geoms}<camera name="top" pos="0 0 2"/></worldbody></mujoco>'
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data, "top")
    frame = renderer.render()
    from OpenGL import GL
    name = GL.glGetString(GL.GL_RENDERER)
seen = [[int(v) for v in frame[i, j] > 127] for i, j in ((16, 16), (16, 48), (48, 16), (48, 48))]
print(json.dumps({"seen": seen, "constant": bool((frame == frame[0, 0]).all()),
                  "name": (name or b"").decode(), "took_s": time.perf_counter() - start_s}))
"""
_EXPECTED = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]


@dataclass(frozen=True)
class GlProbe:
    """What one backend did. `detail` is the GL renderer's name, or one line on what went wrong."""

    backend: str
    works: bool
    detail: str
    took_s: float = 0.0

    @property
    def remedy(self) -> str:
        """The line that installs the backend's libraries on Debian and Ubuntu."""
        return BACKENDS[self.backend]


def probe_gl(backend: str) -> GlProbe:
    """Render one frame with `backend` ("egl" or "osmesa") in a child process and judge it.

    Never raises for a backend that does not work, whatever the GL library does to the child.
    """
    if backend not in BACKENDS:
        raise unknown_name("GL backend", backend, BACKENDS)
    environment = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    command = [sys.executable, "-P", "-c", _CHILD]  # -P: a mujoco.py in the user's folder is not MuJoCo
    try:
        child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return GlProbe(backend, False, f"no frame within {_PROBE_TIMEOUT_S:.0f} s")
    return _judged(backend, child.returncode, child.stdout, child.stderr)


def _judged(backend: str, status: int, stdout: str, stderr: str) -> GlProbe:
    if status < 0:
        return GlProbe(backend, False, f"the GL library crashed (signal {-status})")
    if status > 0 and find_library(_LIBRARIES[backend]) is None:
        return GlProbe(backend, False, f"lib{_LIBRARIES[backend]} is not installed")
    if status > 0:
        return GlProbe(backend, False, _last_error(stderr))
    try:
        answer = json.loads(stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return GlProbe(backend, False, "the probe answered nothing")
    if answer["constant"]:
        return GlProbe(backend, False, f"{answer['name']} rendered a constant frame")
    if answer["seen"] != _EXPECTED:
        return GlProbe(backend, False, f"{answer['name']} rendered wrong colours: {answer['seen']}")
    return GlProbe(backend, True, answer["name"], answer["took_s"])


def _last_error(stderr: str) -> str:
    """The line of a traceback that names the exception; clean-up errors of half-made contexts follow it."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if line.startswith("Traceback")), None)
    if first is None:
        return lines[-1] if lines else "the probe ended without a message"
    raised = (line for line in lines[first + 1 :] if line.split(":")[0].split(".")[-1].endswith(("Error", "Exception")))
    return next(raised, lines[-1])


def select_gl_backend() -> str:
    """The GL backend for this process and its children; call before MuJoCo is imported.

    Keeps `MUJOCO_GL` where it is set. Otherwise sets it to the first of EGL and OSMesa that renders a right frame, at
    the price of one child process. Raises S2RobotError with the line that mends it when none works, when MuJoCo
    was imported too early and when it is not installed.
    """
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    if chosen:
        return chosen
    if not sys.platform.startswith("linux"):
        return "cgl" if sys.platform == "darwin" else "wgl"
    if "mujoco" in sys.modules:
        if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
            return "glfw"  # what MuJoCo chose when it was imported
        raise S2RobotError(
            "mujoco was imported before a GL backend was selected: call select_gl_backend() first or set MUJOCO_GL=egl"
        )
    if find_spec("mujoco") is None:
        raise S2RobotError("rendering needs mujoco, which is not installed: pip install 's2robot[sim]'")
    probes = []
    for backend in BACKENDS:
        probe = probe_gl(backend)
        if probe.works:
            os.environ["MUJOCO_GL"] = backend
            return backend
        probes.append(probe)
    reasons = "; ".join(f"{p.backend}: {p.detail}" for p in probes)
    raise S2RobotError(f"no GL backend renders here ({reasons}); install one: {probes[0].remedy}")
