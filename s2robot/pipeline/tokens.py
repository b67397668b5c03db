"""Cached tokens for training: resident on the training device where they fit, else streamed from the cache's files.

Dims: v views, s steps of all episodes, b batch, o observation horizon, n tokens, c channels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from s2robot.data.features import FeatureCache, FeatureKey, TokenRows
from s2robot.errors import S2RobotError, unknown_name
from s2robot.progress import say

PLACES = ("auto", "resident", "streamed")
CGROUP = Path("/sys/fs/cgroup")
CGROUPS = (  # limit, use and name of the page cache in memory.stat: version 2, version 1
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
SHARE = 0.8  # of the free memory that resident tokens may take
AHEAD = 3  # batches that are gathered while the device works

T = TypeVar("T")


@runtime_checkable
class Tokens(Protocol):
    """One camera's tokens of all steps under all views of training; held-out episodes have view 0 alone."""

    def gather(self, views: Int64[np.ndarray, "b o"], steps: Int64[np.ndarray, "b o"]) -> Float[Tensor, "b o n c"]:
        """The tokens of `steps`, each under its view, on the training device."""
        ...


class ResidentTokens:
    """One block in memory: the quickest there is."""

    def __init__(self, block: Float[Tensor, "v s n c"]) -> None:
        self.block = block

    def gather(self, views: Int64[np.ndarray, "b o"], steps: Int64[np.ndarray, "b o"]) -> Float[Tensor, "b o n c"]:
        """By one index."""
        return self.block[on_device(views, self.block.device), on_device(steps, self.block.device)]


class StreamedTokens:
    """Read from the cache's files as they are asked for: `files[view][episode]`."""

    def __init__(
        self, files: Sequence[Sequence[TokenRows]], starts: Int64[np.ndarray, " e_plus_1"], device: torch.device
    ) -> None:
        self.files, self.starts, self.device = files, starts, device

    def gather(self, views: Int64[np.ndarray, "b o"], steps: Int64[np.ndarray, "b o"]) -> Float[Tensor, "b o n c"]:
        """Row by row from the files."""
        episodes = np.searchsorted(self.starts, steps, side="right") - 1
        within = steps - self.starts[episodes]
        rows = zip(views.ravel().tolist(), episodes.ravel().tolist(), within.ravel().tolist(), strict=True)
        block = np.stack([self.files[view][episode].row(step) for view, episode, step in rows])
        tokens = torch.from_numpy(block).unflatten(0, steps.shape)
        if self.device.type == "cuda":
            tokens = tokens.pin_memory()
        return tokens.to(self.device, non_blocking=True)


def on_device(numbers: np.ndarray, device: torch.device) -> Tensor:
    """Row numbers where they index: a GPU would wait for pageable ones."""
    rows = torch.from_numpy(numbers)
    return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows


def load_tokens(
    cache: FeatureCache,
    keys: Sequence[Sequence[FeatureKey]],
    starts: Int64[np.ndarray, " e_plus_1"],
    device: torch.device,
    place: str,
) -> Tokens:
    """The tokens of `keys[view][episode]`, whose steps begin at `starts[episode]`.

    Every file is read and checked once. Raises S2RobotError naming `s2robot encode` where one is missing, and where
    `place="resident"` does not fit.
    """
    if place not in PLACES:
        raise unknown_name("place of features", place, PLACES)
    first = cache.read(keys[0][0]).tokens
    bytes_ = len(keys) * int(starts[-1]) * first[0].nbytes
    free = _free_bytes(device)
    if place == "resident" and bytes_ > free:
        raise S2RobotError(
            f"features of {bytes_ / 1e9:.1f} GB do not fit into the {free / 1e9:.1f} GB that are free on {device}; "
            "give features=streamed, or fewer views, cameras or demonstrations"
        )
    if place == "streamed" or bytes_ > SHARE * free:
        say(f"features of {bytes_ / 1e9:.1f} GB are streamed from {cache.folder} ({free / 1e9:.1f} GB free)")
        return StreamedTokens([[cache.rows(key) for key in view] for view in keys], starts, device)
    block = torch.empty(len(keys), int(starts[-1]), *first.shape[1:], dtype=torch.float16, device=device)
    for place_, view in enumerate(keys):  # straight into one block: features are the largest thing in memory
        for key, start, stop in zip(view, starts[:-1], starts[1:], strict=True):
            block[place_, start:stop] = torch.from_numpy(cache.read(key).tokens)
    return ResidentTokens(block)


class Prefetch(Generic[T]):
    """`batches(step)` with the next few made in threads meanwhile. Use as a context manager."""

    def __init__(self, batches: Callable[[int], T], threads: int = 1) -> None:
        self._batches, self._ahead = batches, max(AHEAD, threads)
        self._made: dict[int, Future[T]] = {}
        self._pool = ThreadPoolExecutor(threads)

    def __enter__(self) -> Prefetch[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __call__(self, step: int) -> T:
        for ahead in range(step, step + 1 + self._ahead):
            if ahead not in self._made:
                self._made[ahead] = self._pool.submit(self._batches, ahead)
        return self._made.pop(step).result()


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_host_bytes(), _container_bytes())


def _container_bytes() -> float:
    """What a container's limit leaves, its page cache counted as free; infinite without a limit."""
    for limit, used, cache in CGROUPS:
        if (CGROUP / limit).exists() and (CGROUP / limit).read_text().strip().isdigit():
            stat = dict(line.split() for line in (CGROUP / limit).with_name("memory.stat").read_text().splitlines())
            return int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text()) + int(stat[cache])
    return math.inf


def _host_bytes() -> int:
    info = Path("/proc/meminfo")
    if not info.exists():
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])  # with the page cache, which gives way
