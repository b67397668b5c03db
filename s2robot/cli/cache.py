"""`s2robot cache`: what the feature cache holds, and how to make room."""

from __future__ import annotations

import time
from typing import Any

HELP = "lists and prunes cached features"
VERBS = {
    "list": "what is cached, by encoder, the longest unused first",
    "prune": "deletes encoders that are not in keep= or were not used for unused_days=",
}


def run(config: Any, verb: str) -> int | None:
    """Raises S2RobotError for a prune without a rule, or when `cache` does not exist."""
    from pathlib import Path

    from s2robot.configs import listed
    from s2robot.data.features import FeatureCache
    from s2robot.errors import S2RobotError

    if not Path(config.cache).is_dir():
        raise S2RobotError(f"no feature cache at {config.cache}; `s2robot encode` makes one, or give cache=DIR")
    cache = FeatureCache(config.cache)
    if verb == "list":
        found = cache.list()
    else:
        keep = None if config.keep is None else list(listed(config.keep))
        found = cache.prune(keep=keep, unused_days=config.unused_days, dry_run=config.dry_run)
    for line in found:
        days = (time.time() - line.last_used_s) / 86400
        print(
            f"{line.name or '(unnamed)':<24} {line.encoder[:12]}  {line.episodes:>6} episodes  {line.files:>6} files  "
            f"{line.bytes / 1e6:>9.1f} MB  used {days:.1f} days ago"
        )
    done = {"list": "cached", "prune": "would be deleted" if config.dry_run else "deleted"}[verb]
    print(f"{sum(line.bytes for line in found) / 1e6:.1f} MB of {len(found)} encoders {done} in {config.cache}")
    return None
