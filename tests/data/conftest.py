"""The modules beside the tests (tiny_episodes, crash) are importable, and a three-episode store is at hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tiny_episodes import SPEC, make_episode

from s2robot.data.episodes import EpisodeWriter


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with the episodes of seeds 1, 2 and 3, written in another order."""
    writer = EpisodeWriter(tmp_path / "store", SPEC)
    for seed in (3, 1, 2):
        writer.write(make_episode(seed))
    return tmp_path / "store"
