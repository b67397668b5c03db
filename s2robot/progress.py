"""Progress with rate and time left: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

LINE_EVERY_S = 10.0


def say(text: str) -> None:
    """One line of status on stderr; stdout is kept for results."""
    print(text, file=sys.stderr, flush=True)


def progress(
    items: Iterable[T], total: int, label: str, unit: str = "it", done: int = 0, show: bool = True
) -> Iterator[T]:
    """Pass `items` through, showing how many of `total` are finished (`done` of them before this start).

    `show=False` passes them through in silence.
    """
    if not show:
        yield from items
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, initial=done, desc=label, unit=unit, dynamic_ncols=True, smoothing=0.1)
        return
    start_s = last_s = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now_s = time.monotonic()
        if now_s - last_s >= LINE_EVERY_S or done + count == total:
            last_s = now_s
            rate = count / max(now_s - start_s, 1e-9)
            left_s = (total - done - count) / rate
            say(f"{label}: {done + count}/{total} {unit}, {rate:.1f} {unit}/s, {clock(left_s)} left")


def clock(seconds: float) -> str:
    """`75` -> `1:15`, `3700` -> `1:01:40`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
