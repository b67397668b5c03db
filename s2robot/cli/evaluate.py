"""`s2robot evaluate`: a checkpoint on a range of seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HELP = "rolls a checkpoint out on a range of seeds"
VERBS: dict[str, str] = {}


def run(config: Any, verb: str) -> int | None:
    """Write one outcome per episode and print the success rate with its interval."""
    from s2robot.pipeline.agents import load_policy
    from s2robot.pipeline.checkpoint import open_checkpoint
    from s2robot.pipeline.evaluate import EPISODES, ROWS, Evaluation, evaluate, policy_sha256, read_conduct
    from s2robot.pipeline.rollout import RolloutPool
    from s2robot.pipeline.seeds import parse_seeds
    from s2robot.pipeline.simulation import simulated_task
    from s2robot.pipeline.statistics import wilson
    from s2robot.types import DatasetSpec

    seeds = parse_seeds(config.seeds)
    path, manifest = open_checkpoint(Path(config.checkpoint))
    agent = load_policy(path, config.device, rows=ROWS)
    task = simulated_task(DatasetSpec.from_json(manifest["spec"]), config.task)
    name = task["name"]
    what = Evaluation(name, config.arm, int(manifest["recipe"]["seed"]), policy_sha256(manifest), task)
    with RolloutPool(task, config.workers) as pool:
        outcomes = evaluate(what, agent, pool, seeds, Path(config.out))
    k = sum(outcome.success for outcome in outcomes)
    interval = wilson(k, len(outcomes))
    print(
        f"{name}: {k}/{len(outcomes)} = {k / len(outcomes):.3f}, 95 % Wilson interval {interval.low:.3f} to "
        f"{interval.high:.3f}; outcomes in {Path(config.out) / EPISODES}"
    )
    if told := read_conduct(Path(config.out)).sentence():
        print(told)
    return None
