"""Action chunks laid out over absolute ticks: which action belongs to the next one.

A chunk's first action belongs to the tick at which its observation was taken. When the chunk arrives, some ticks have
been executed since; they are counted, not estimated, and its actions for them are skipped.

Dims: k chunk, a action.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from jaxtyping import Float

from s2robot.errors import S2RobotError


class ChunkBuffer:
    """Args:
    ensemble: rate of temporal ensembling over all chunks that reach the tick, as in `EpisodeMemory`; None takes the
        newest chunk.
    blend: ticks over which a new chunk fades in from what was planned before; 0 for none.
    keep: actions of a chunk that may be executed; all by default.

    `seams` grows by one number per chunk that took over while another was still planned: the mean absolute difference
    (units of the action) between the two at that tick.
    """

    def __init__(self, ensemble: float | None = None, blend: int = 0, keep: int | None = None) -> None:
        if blend < 0 or (ensemble is not None and ensemble < 0) or (keep is not None and keep < 1):
            raise S2RobotError(f"blend={blend}, ensemble={ensemble}, keep={keep}; give 0 or more, and keep 1 or more")
        self.ensemble, self.blend, self.keep = ensemble, blend, keep
        self.tick = 0  # the next one to execute
        self.seams: list[float] = []
        self._plans: deque[tuple[int, Float[np.ndarray, "k a"]]] = deque()
        self._fades_from: tuple[int, Float[np.ndarray, "k a"]] | None = None
        self._fade_start = 0

    def add(self, at: int, chunk: Float[np.ndarray, "k a"]) -> bool:
        """A chunk whose first action belongs to tick `at`. False where it is of no use: all of it lies in the past, or
        one that saw more has come before it.
        """
        chunk = chunk[: self.keep]
        before = self._newest()
        if at + len(chunk) <= self.tick or at > self.tick or (before is not None and at < before[0]):
            return False
        if before is not None:
            self.seams.append(float(np.abs(_of(before, self.tick) - chunk[self.tick - at]).mean()))
            self._fades_from, self._fade_start = before, self.tick
        self._plans.append((at, chunk))
        return True

    def action(self) -> Float[np.ndarray, " a"] | None:
        """What is planned for the next tick; None where nothing is."""
        newest = self._newest()
        if newest is None:
            return None
        if self.ensemble is not None:
            found = [_of(plan, self.tick) for plan in self._plans if _covers(plan, self.tick)]
            weights = np.exp(-self.ensemble * np.arange(len(found)))  # the oldest weighs most (arXiv 2304.13705)
            return (weights / weights.sum()) @ np.stack(found)
        action = _of(newest, self.tick)
        share = (self.tick - self._fade_start + 1) / (self.blend + 1)
        if self._fades_from is None or share >= 1 or not _covers(self._fades_from, self.tick):
            return action
        return share * action + (1 - share) * _of(self._fades_from, self.tick)

    def consume(self) -> None:
        """The next tick was executed."""
        self.tick += 1
        while self._plans and not _covers(self._plans[0], self.tick):
            self._plans.popleft()

    def planned(self) -> int:
        """Ticks ahead for which there is an action."""
        newest = self._newest()
        return 0 if newest is None else newest[0] + len(newest[1]) - self.tick

    def flush(self) -> None:
        """Forget all plans: they were made for a motion that did not take place."""
        self._plans.clear()
        self._fades_from = None

    def _newest(self) -> tuple[int, Float[np.ndarray, "k a"]] | None:
        return self._plans[-1] if self._plans and _covers(self._plans[-1], self.tick) else None


def _covers(plan: tuple[int, np.ndarray], tick: int) -> bool:
    return plan[0] <= tick < plan[0] + len(plan[1])


def _of(plan: tuple[int, np.ndarray], tick: int) -> np.ndarray:
    return plan[1][tick - plan[0]]
