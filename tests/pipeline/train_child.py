"""A training run on a slow disk that says when a save is done: train_child.py STORE CACHE OUT EPOCHS.

A save takes milliseconds. Every operation on a file of a checkpoint takes PAUSE_S longer here, so that kills at random
moments meet it half written.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from s2robot.data.episodes import EpisodeStore
from s2robot.data.features import FeatureCache
from s2robot.pipeline.run import Run
from s2robot.pipeline.train import train
from tests.pipeline.conftest import ALONE, job

PAUSE_S = 0.05


def wait(event: str, arguments: tuple[object, ...]) -> None:
    """Before each operation that changes a checkpoint."""
    writes = event == "open" and int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)  # type: ignore[call-overload]
    if (writes or event in ("os.rename", "os.mkdir", "os.remove")) and "step-" in str(arguments[0]):
        time.sleep(PAUSE_S)


class Telling(Run):
    """Prints the step of every save once it is done."""

    def save(self, finished: bool) -> Path:
        """As a run does it."""
        path = super().save(finished)
        print(self.state.step, flush=True)
        return path


def main(store: str, cache: str, out: str, epochs: str) -> None:
    import s2robot.pipeline.train as module

    torch.set_num_threads(1)
    sys.addaudithook(wait)
    patched: Any = module
    patched.Run = Telling
    train(job(EpisodeStore(store), FeatureCache(cache), epochs=int(epochs), save_every_s=0.0), Path(out), ALONE)


if __name__ == "__main__":
    main(*sys.argv[1:])
