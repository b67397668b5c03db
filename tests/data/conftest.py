"""The modules beside the tests (tiny_episodes, crash) are importable, and a three-episode store is at hand."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tiny_episodes import SPEC, make_episode

from s2robot.data.episodes import EpisodeWriter


@pytest.fixture(scope="session")
def original_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written once: fsync is slow on a busy disk."""
    writer = EpisodeWriter(tmp_path_factory.mktemp("original") / "store", SPEC)
    for seed in (3, 1, 2):
        writer.write(make_episode(seed))
    return writer.path


@pytest.fixture
def store(original_store: Path, tmp_path: Path) -> Path:
    """A store of one's own with the episodes of seeds 1, 2 and 3, written in another order."""
    return Path(shutil.copytree(original_store, tmp_path / "store"))
