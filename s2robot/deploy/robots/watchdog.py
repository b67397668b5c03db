"""The robot's side of the bargain: when commands stop coming, brake within the limits, stand, and stay so.

A pure function of what came and when, so that a simulated robot and a bridge to a real one carry the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from s2robot.deploy.limiter import REST, AxisState, step, ticks_to_rest
from s2robot.deploy.limits import Axis

SILENCE = "no command came in time"


class Watchdog:
    """Times in s on one monotonic clock.

    Args:
        axes: the moving elements of a command of `size` elements, and their limits.
        period_s: of a tick.
        timeout_s: the longest silence.
        absolute: whether commands are places, not displacements.
    """

    def __init__(
        self, axes: Sequence[Axis], size: int, period_s: float, timeout_s: float, absolute: bool = False
    ) -> None:
        self.axes, self.size, self.period_s, self.timeout_s, self.absolute = axes, size, period_s, timeout_s, absolute
        self.fault = ""
        self._last_s = math.inf  # no command yet: nothing to watch
        self._braked_s = 0.0
        self._command: tuple[float, ...] | None = None  # the last one that was accepted
        self._states: tuple[AxisState, ...] = (REST,) * len(axes)

    def command(self, action: Sequence[float], now_s: float) -> bool:
        """A command came. False where it must not be executed: a fault is latched, or it is not finite."""
        if self.fault or len(action) != self.size or not all(map(math.isfinite, action)):
            return False
        self._states = tuple(self._moved(i, axis, action) for i, axis in enumerate(self.axes))
        self._command, self._last_s = tuple(action), now_s
        return True

    def _moved(self, number: int, axis: Axis, action: Sequence[float]) -> AxisState:
        start = (self._command or action)[axis.index] if self.absolute else 0.0
        w = (action[axis.index] - start) * axis.scale
        return AxisState(w, w - self._states[number].w)

    def due(self, now_s: float) -> tuple[float, ...] | None:
        """The command of this moment where braking is due, one per tick; None while all is well, and where nothing was
        commanded yet: then there is nothing to brake, and no place that is known to be safe.
        """
        if not self.fault and now_s - self._last_s < self.timeout_s:
            return None
        if self._command is None:
            return None
        if not self.fault:
            self.latch(SILENCE)
        elif now_s - self._braked_s < self.period_s:
            return None
        self._braked_s = now_s
        action = list(self._command)
        states = []
        for axis, state in zip(self.axes, self._states, strict=True):
            after = step(state, 0.0, axis.limit)
            states.append(after)
            action[axis.index] = (action[axis.index] if self.absolute else 0.0) + after.w / axis.scale
        self._states, self._command = tuple(states), tuple(action)
        return self._command

    def latch(self, fault: str) -> None:
        """Brake from now on, for a reason of the robot's own or because it was told to stop."""
        self.fault = self.fault or fault
        self._braked_s = -math.inf

    def at_rest(self) -> bool:
        """Nothing is moving by command."""
        return all(state == REST for state in self._states)

    def ticks_to_rest(self) -> int:
        """How long braking takes from here."""
        return max((ticks_to_rest(s, axis.limit) for axis, s in zip(self.axes, self._states, strict=True)), default=0)

    def rearm(self) -> bool:
        """A person says that it may move again. False while it still brakes."""
        if self.fault and not self.at_rest():
            return False
        self.fault, self._last_s, self._command = "", math.inf, None
        self._states = (REST,) * len(self.axes)
        return True
