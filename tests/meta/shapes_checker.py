"""Run a program with every annotation of s2robot checked at each call: shapes_checker.py PROGRAM ARGUMENT ..."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # ints pass for floats (PEP 484)

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    install_import_hook("s2robot", "shapes_checker.check")
    sys.argv.pop(0)
    runpy.run_path(sys.argv[0], run_name="__main__")
