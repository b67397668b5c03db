"""A bundle's policy: what it remembers of an episode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2robot.deploy.runtime import BundlePolicy
from s2robot.types import Observation

from .tiny_bundle import PX, write_bundle


def test_a_frame_is_encoded_once_though_two_decisions_look_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = BundlePolicy(write_bundle(tmp_path / "bundle", changes={"observation_horizon": 2}))
    assert policy.decisions.observation_horizon == 2
    real, calls = BundlePolicy.encode, [0]

    def counted(self: BundlePolicy, camera: str, images: Any) -> np.ndarray:
        calls[0] += 1
        return real(self, camera, images)

    monkeypatch.setattr(BundlePolicy, "encode", counted)
    rng = np.random.default_rng(0)
    seen = [
        Observation(
            {"front": rng.integers(0, 256, (PX, PX, 3), np.uint8)},
            rng.normal(size=3).astype(np.float32),
            np.eye(2, dtype=np.float32)[0],
            0.0,
        )
        for _ in range(5)
    ]
    memory = policy.new_memory()
    chunks = [policy.chunk(observation, memory, (7, 3)) for observation in seen]
    assert calls[0] == len(seen)
    again = policy.new_memory()
    policy.see(seen[3], again)
    np.testing.assert_array_equal(policy.chunk(seen[4], again, (7, 3)), chunks[4])
    assert not np.array_equal(policy.chunk(seen[4], policy.new_memory(), (7, 3)), chunks[4]), "it looks back at one"
    calls[0] = 0
    camera = seen[0].images["front"].copy()
    for index, renewed in enumerate([True, False, False, True, False]):  # it delivers less often than is decided
        if renewed:
            camera[:] = seen[index].images["front"]  # into the same memory
        standing = policy.new_memory()
        policy.see(replace(seen[index], images={"front": camera}), memory)
        policy.see(replace(seen[index], images={"front": camera.copy()}), standing)
        np.testing.assert_array_equal(memory.steps()[-1].tokens["front"], standing.steps()[-1].tokens["front"])
    assert calls[0] == 2 + 5
