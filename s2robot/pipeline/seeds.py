"""Which seeds are for what, half-open, and ranges of them as text. Nothing is scored on seeds that it was chosen by."""

from __future__ import annotations

from s2robot.errors import S2RobotError

DEMONSTRATION_SEEDS = range(10_000)
VALIDATION_SEEDS = range(10_000, 20_000)  # to choose recipes and checkpoints by
TEST_SEEDS = range(20_000, 30_000)  # scored once
PROBE_SEEDS = range(30_000, 40_000)  # of tasks' frames; random scenes have theirs from 1,000,000


def parse_seeds(text: str) -> range:
    """`"20000:20100"` to a half-open range. Raises S2RobotError for anything else."""
    first, colon, last = str(text).partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise S2RobotError(f"seeds={text!r}; give a half-open range of seeds as A:B with A < B, e.g. seeds=20000:20100")
    return range(int(first), int(last))
