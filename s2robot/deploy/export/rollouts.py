"""The closed loop: checkpoint and bundle on the same initial states in simulation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from s2robot.deploy.bundle import read_manifest
from s2robot.deploy.runtime import BundlePolicy
from s2robot.errors import MismatchError
from s2robot.pipeline.agents import load_policy
from s2robot.pipeline.checkpoint import open_checkpoint
from s2robot.pipeline.evaluate import ROWS, Evaluation, evaluate, policy_sha256
from s2robot.pipeline.rollout import Actor, RolloutPool
from s2robot.pipeline.simulation import simulated_task
from s2robot.pipeline.statistics import contrast, wilson
from s2robot.storage import write_json
from s2robot.types import DatasetSpec

FILE = "closed_loop.json"


@dataclass(frozen=True)
class ClosedLoop:
    """Successes of both on the same n initial states; `interval95` is that of the difference bundle - checkpoint."""

    n: int
    checkpoint: int
    bundle: int
    bundle_only: int
    checkpoint_only: int
    diff: float
    interval95: tuple[float, float]
    mcnemar_p: float

    def text(self) -> str:
        """One line for people."""
        low, high = self.interval95
        rates = ", ".join(
            f"{name} {k}/{self.n} ({wilson(k, self.n).low:.2f} to {wilson(k, self.n).high:.2f})"
            for name, k in (("checkpoint", self.checkpoint), ("bundle", self.bundle))
        )
        return f"closed loop, same initial states: {rates}; difference {self.diff:+.2f}, 95 % {low:+.2f} to {high:+.2f}"


def compare_rollouts(checkpoint: Path, bundle: Path, seeds: range, workers: int) -> ClosedLoop:
    """Roll both out in the simulator, outcomes beside the bundle, the result in it (`closed_loop.json`).

    Raises MismatchError where the bundle is another checkpoint's.
    """
    path, manifest = open_checkpoint(checkpoint)
    if read_manifest(bundle).identity.checkpoint_sha256 != policy_sha256(manifest):
        raise MismatchError(f"{bundle} was not exported from {checkpoint}; export that one, or name its checkpoint")
    task = simulated_task(DatasetSpec.from_json(manifest["spec"]))
    agents: dict[str, Actor] = {"checkpoint": load_policy(path, rows=ROWS), "bundle": BundlePolicy(bundle)}
    success = {}
    with RolloutPool(task, workers) as pool:
        for arm, agent in agents.items():
            what = Evaluation(task["name"], arm, int(manifest["recipe"]["seed"]), policy_sha256(manifest), task)
            outcomes = evaluate(what, agent, pool, seeds, bundle.with_name(f"{bundle.name}_rollouts") / arm)
            success[arm] = np.array([outcome.success for outcome in outcomes])
    found = contrast(success["bundle"][None], success["checkpoint"][None])
    result = ClosedLoop(
        n=len(seeds),
        checkpoint=int(success["checkpoint"].sum()),
        bundle=int(success["bundle"].sum()),
        bundle_only=found.a_only,
        checkpoint_only=found.b_only,
        diff=found.diff,
        interval95=(found.interval.low, found.interval.high),
        mcnemar_p=found.mcnemar_p,
    )
    write_json(bundle / FILE, asdict(result))
    return result
