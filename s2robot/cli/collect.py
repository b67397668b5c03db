"""`s2robot collect`: scripted demonstrations into an episode store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HELP = "gathers demonstrations of a task from its scripted expert"
VERBS: dict[str, str] = {}


def run(config: Any, verb: str) -> int | None:
    """Fill the store up to `episodes`."""
    from omegaconf import OmegaConf

    from s2robot.configs import listed
    from s2robot.pipeline.collect import collect

    task = OmegaConf.to_container(config.task, resolve=True)
    cameras = listed(config.cameras)
    stored = 0
    for result in collect(
        {**task, "cameras": list(cameras)},  # type: ignore[dict-item]
        Path(config.store),
        config.episodes,
        cameras,
        config.first_seed,
        config.workers,
    ):
        stored += result.episode is not None
        if config.list and result.episode:
            print(result.episode, flush=True)
    if not config.list:
        print(f"{stored} new demonstrations in {config.store}; next: s2robot encode store={config.store}")
    return None
