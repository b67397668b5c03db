"""One axis under limits of velocity, acceleration, jerk and position at a fixed rate, such that it can always stop.

Everything is in displacement per tick: `w` the displacement of a tick, `b` its change from tick to tick, `c` the
largest change of `b`. Velocity, acceleration and jerk are these times rate, rate^2 and rate^3. A state is kept from
which some sequence of allowed changes leads to rest inside all limits (a viable state), so a limit never has to be
broken to keep another one. The idea is that of online trajectory generation (Kroeger, Springer STAR 58, 2010), here
in discrete time.
"""

from __future__ import annotations

import math
from typing import NamedTuple

EPSILON = 1e-12  # of full scale: what rounding may add
BISECTIONS = 6


class AxisLimit(NamedTuple):
    """Largest magnitudes of displacement per tick, of its change, and of the change of that; all above 0."""

    w: float
    b: float
    c: float


class AxisState(NamedTuple):
    """Displacement of the last tick and its change."""

    w: float = 0.0
    b: float = 0.0


REST = AxisState()


def step(state: AxisState, want: float, limit: AxisLimit, room: tuple[float, float] | None = None) -> AxisState:
    """The next state, as near to a displacement of `want` as the limits allow.

    `room` (below, above; the first usually negative) is how far the axis may still go either way.
    """
    want = min(max(want, -limit.w), limit.w)
    after = _towards(state, want, limit)
    if room is None or _stops_within(after, limit, room):
        return after
    # A step that cannot stop in time gives way to one as near to it as can; braking now always could.
    brake = _towards(state, 0.0, limit)
    if not _stops_within(brake, limit, room):  # outside already, or pushed there: the hardest brake
        return brake
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        share = (low + high) / 2
        b = brake.b + share * (after.b - brake.b)
        if _stops_within(AxisState(state.w + b, b), limit, room):
            low = share
        else:
            high = share
    b = brake.b + low * (after.b - brake.b)
    return AxisState(state.w + b, b)


def ticks_to_rest(state: AxisState, limit: AxisLimit) -> int:
    """Ticks that braking takes."""
    ticks = 0
    while state != REST:
        state = _towards(state, 0.0, limit)
        ticks += 1
    return ticks


def _towards(state: AxisState, want: float, limit: AxisLimit) -> AxisState:
    """One tick towards `want`, slowing down early enough not to overshoot it.

    From a viable state this never overshoots `limit.w` either: `want` is at most that, and where the change is too
    steep for `want` it falls by c a tick, which the tick before had room for.
    """
    w, b = state
    lowest, highest = max(b - limit.c, -limit.b), min(b + limit.c, limit.b)
    b = _steepest(want - w, limit.c) if want >= w else -_steepest(w - want, limit.c)
    b = min(max(b, lowest), highest)
    w += b
    return AxisState(0.0 if abs(w) < EPSILON * limit.w else w, 0.0 if abs(b) < EPSILON * limit.w else b)


def _steepest(room: float, c: float) -> float:
    """The largest b whose sum b + (b - c) + (b - 2 c) + ... down to 0 is at most `room`."""
    if room <= 0.0:
        return 0.0
    n = math.floor((math.sqrt(1.0 + 8.0 * room / c) - 1.0) / 2.0)
    return (room + c * n * (n + 1) / 2.0) / (n + 1)


def _stops_within(state: AxisState, limit: AxisLimit, room: tuple[float, float]) -> bool:
    """Does moving by `state.w` now and braking afterwards stay in the room?"""
    if state.w <= 0.0 and state.b <= 0.0 and room[1] >= 0.0 and _far(-state.w, state.b, limit, -room[0]):
        return True
    if state.w >= 0.0 and state.b >= 0.0 and room[0] <= 0.0 and _far(state.w, state.b, limit, room[1]):
        return True
    low, high = room[0] - EPSILON * limit.w, room[1] + EPSILON * limit.w
    place = low_place = high_place = state.w
    while state != REST:
        state = _towards(state, 0.0, limit)
        place += state.w
        low_place, high_place = min(low_place, place), max(high_place, place)
    # From outside, moving back in is allowed.
    return (high_place <= high or high_place <= 0.0) and (low_place >= low or low_place >= 0.0)


def _far(w: float, b: float, limit: AxisLimit, room: float) -> bool:
    """A quick bound: so many ticks at so many displacements are less than the room."""
    ticks = w / limit.b + (limit.b + abs(b)) / limit.c + 3.0
    return (w + b * b / limit.c) * ticks < room
