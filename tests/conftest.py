"""Common to all tests: a GL backend is chosen before any test imports MuJoCo, and nothing reaches the network."""

from __future__ import annotations

import contextlib
import importlib.util
import os

from s2robot.errors import S2RobotError
from s2robot.gl import select_gl_backend

# A hub lookup in a test is a bug: it must fail at once instead of waiting for a server.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores

if importlib.util.find_spec("mujoco"):
    # Without any backend the tests that render fail with their own clear line.
    with contextlib.suppress(S2RobotError):
        select_gl_backend()
