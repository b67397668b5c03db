"""`s2robot collect` with a writer that breaks a promise: collect_child.py WRITER key=value ..."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from crash_child import WRITERS

from s2robot.cli.main import main
from s2robot.pipeline import collect

collect.EpisodeWriter = WRITERS[sys.argv[1]]  # type: ignore[misc]
sys.exit(main(["collect", *sys.argv[2:]]))
