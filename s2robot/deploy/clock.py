"""The clock that a loop goes by: the wall's, unless a test brings its own."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

SPIN_S = 0.0005  # before a tick: sleeping wakes up late by about so much


@runtime_checkable
class Clock(Protocol):
    """Never goes back."""

    def now_s(self) -> float:
        """s, since an arbitrary moment."""
        ...

    def sleep_until(self, when_s: float) -> None:
        """Returns at `when_s` or as soon after it as can be."""
        ...


class WallClock:
    """Real time, monotonic; the same that robots stamp what they measure with."""

    def now_s(self) -> float:
        """s."""
        return time.monotonic()

    def sleep_until(self, when_s: float) -> None:
        """Sleeps, then waits actively for the last half millisecond."""
        while (left_s := when_s - time.monotonic()) > 0:
            time.sleep(left_s - SPIN_S if left_s > 2 * SPIN_S else 0)
