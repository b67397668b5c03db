"""What an agent remembers of one episode: the observations that it still looks back at, and its latest chunks.

Dims: h w frame (px), n tokens, c channels, p proprioception, g goal, k chunk, a action, e executed actions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from s2robot.errors import S2RobotError


class Seen(NamedTuple):
    """One observation as the policy reads it: tokens (n, c) by camera, proprioception, goal.

    Tokens are tensors with torch and numpy arrays in a bundle, which needs none. `frames` are what they were made of,
    where a camera may deliver less often than is decided.
    """

    tokens: Mapping[str, Any]
    proprio: Float32[np.ndarray, " p"]
    goal: Float32[np.ndarray, " g"]
    frames: Mapping[str, UInt8[np.ndarray, "h w 3"]] = MappingProxyType({})


class EpisodeMemory:
    """Ring buffers over the last `horizon` observations and over all chunks that still reach into the present.

    `ensemble` is the rate m of ACT's temporal ensembling (arXiv 2304.13705, algorithm 2): the oldest prediction of a
    tick weighs 1, the next exp(-m), and so on; None leaves it out. `seams` grows by one number per decision but the
    first: how far (mean absolute difference, normalised units) the new chunk's first action lies from what the one
    before it had planned for that tick.
    """

    def __init__(self, horizon: int, chunk: int, execute: int, ensemble: float | None = None) -> None:
        if ensemble is not None and ensemble < 0:
            raise S2RobotError(f"ensemble={ensemble}; give a rate of at least 0, or null for none")
        self._steps: deque[Seen] = deque(maxlen=horizon)
        self._chunks: deque[Float32[np.ndarray, "k a"]] = deque(maxlen=-(-chunk // execute))
        self._execute, self._ensemble = execute, ensemble
        self.seams: list[float] = []

    def push(self, seen: Seen) -> None:
        """The newest observation; the oldest falls out, and the first stands in for those before it."""
        self._steps.extend([seen] * (1 if self._steps else self._steps.maxlen or 1))

    def steps(self) -> list[Seen]:
        """Oldest first, `horizon` of them; none before the first push."""
        return list(self._steps)

    def accept(self, chunk: Float32[np.ndarray, "k a"]) -> Float32[np.ndarray, "e a"]:
        """A new chunk in, the actions to execute out."""
        if self._chunks and self._execute < len(chunk):
            self.seams.append(float(np.abs(self._chunks[-1][self._execute] - chunk[0]).mean()))
        self._chunks.append(chunk)
        if self._ensemble is None:
            return chunk[: self._execute]
        return np.stack([self._blend(tick, self._ensemble) for tick in range(self._execute)])

    def _blend(self, tick: int, rate: float) -> Float32[np.ndarray, " a"]:
        # Chunk 8, execute 2: the chunk of three decisions ago planned this tick as its element 6 + tick.
        ages = range(len(self._chunks) - 1, -1, -1)
        places = [age * self._execute + tick for age in ages]
        found = [chunk[place] for chunk, place in zip(self._chunks, places, strict=True) if place < len(chunk)]
        weights = np.exp(-rate * np.arange(len(found), dtype=np.float32))
        return (weights / weights.sum()) @ np.stack(found)
