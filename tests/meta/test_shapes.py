"""Annotated shapes and types are true: the line runs with all of them checked at every call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKER, CHILD = (Path(__file__).with_name(name) for name in ("shapes_checker.py", "shapes_child.py"))


def test_the_line_keeps_every_annotated_shape_and_type(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, CHECKER, CHILD, tmp_path], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines()[-1] == "checked", "a wrong shape has to be found, or nothing was checked"
