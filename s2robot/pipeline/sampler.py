"""Which windows a batch holds: a pure function of (seed, step), so a resumed run draws what the first would have."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from s2robot.pipeline.dataset import Split
from s2robot.policies.batch import Batch


@dataclass(frozen=True)
class EpochSampler:
    """`batch(step)`: windows in a fresh order each epoch, a pure function of (seed, step).

    Of `world` processes, number `rank` gets every `world`-th row of a batch.
    """

    split: Split
    batch_size: int
    seed: int
    views: int
    rank: int = 0
    world: int = 1

    def __call__(self, step: int) -> Batch:
        rows, views = self.rows(step)
        if self.world == 1:
            return self.split.gather(rows, views)
        share = slice(self.rank, None, self.world)
        unmasked = self.split.windows.action_mask[rows]
        weight = self.world * unmasked[share].sum() / unmasked.sum()
        return replace(self.split.gather(rows[share], views[share]), weight=float(weight))

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Windows of the whole batch, and the view that each is seen through."""
        size = min(self.batch_size, len(self.split))
        epoch, place = divmod(step, max(1, len(self.split) // size))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.split))
        rows = order[place * size : (place + 1) * size]
        return rows, np.random.default_rng((self.seed, epoch, place)).integers(self.views, size=len(rows))

    def episodes(self, step: int) -> list[str]:
        """Ids of the episodes that the batch draws from."""
        return self.split.episodes(self.rows(step)[0])
