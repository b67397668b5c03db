"""`run_tasks(function, items)`: the same task functions over local processes, here or in a spawn pool.

Results arrive as they are finished; a caller that needs order sorts by key. Nothing depends on the worker count.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import TypeVar

from s2robot.errors import S2RobotError

Item = TypeVar("Item")
Result = TypeVar("Result")

SINGLE_THREADED = {  # two busy numeric threads per core slow one another down by 3-4 times (measured)
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LP_NUM_THREADS": "1",  # Mesa's software rasteriser
}


def run_tasks(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield `function(item)` for every item, unordered, from `workers` spawned processes (0: in this process).

    Workers ignore Ctrl-C; this process stops handing out work, lets running tasks end and raises KeyboardInterrupt.
    An exception in a task stops the rest and is raised here. Raises S2RobotError for a negative number of workers.
    """
    if workers < 0:
        raise S2RobotError(f"workers={workers}; give a number of processes, or 0 to work in this one")
    if workers == 0:
        yield from map(function, items)
        return
    queue = iter(items)
    with worker_environment():
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=initialise_worker)
        running: set[Future[Result]] = set()
        try:
            while True:
                while len(running) < 2 * workers and (item := next(queue, None)) is not None:
                    running.add(pool.submit(function, item))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def initialise_worker() -> None:
    """First call in every spawned worker: Ctrl-C and SIGTERM are the parent's business; die with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent dies, so that no orphan goes on writing (Linux only)."""
    import ctypes
    import sys

    if sys.platform == "linux":
        parent_death_signal = 1  # PR_SET_PDEATHSIG, linux/prctl.h
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


class worker_environment:
    """Children started inside this block inherit single-threaded numeric libraries; the parent's are untouched."""

    def __enter__(self) -> None:
        self._before = {key: os.environ.get(key) for key in SINGLE_THREADED}
        os.environ.update(SINGLE_THREADED)

    def __exit__(self, *_: object) -> None:
        for key, value in self._before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
