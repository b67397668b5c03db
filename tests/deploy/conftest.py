"""Bundles and servers for the tests of the robot's side."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.tiny_bundle import write_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
