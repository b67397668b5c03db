"""`s2robot collect` on a slow disk with a writer that breaks a promise: collect_child.py WRITER key=value ...

An episode takes seconds to demonstrate and milliseconds to write. Every operation on a file takes PAUSE_S longer here,
so that kills at random moments meet the writer at work.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from crash_child import WRITERS

from s2robot.cli.main import main
from s2robot.pipeline import collect

PAUSE_S = 0.03


def wait(event: str, arguments: tuple[object, ...]) -> None:
    """Before each operation that changes a folder of episodes."""
    writes = event == "open" and int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)  # type: ignore[call-overload]
    if (writes or event in ("os.rename", "os.mkdir")) and _in_store(str(arguments[0])):
        time.sleep(PAUSE_S)


def _in_store(path: str) -> bool:
    return "/episodes/" in path or "/.partial/" in path


sys.addaudithook(wait)
collect.EpisodeWriter = WRITERS[sys.argv[1]]  # type: ignore[misc]
sys.exit(main(["collect", *sys.argv[2:]]))
