"""`s2robot evaluate`: a checkpoint on a range of seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2robot.types import DatasetSpec

HELP = "rolls a checkpoint out on a range of seeds"
VERBS: dict[str, str] = {}


def run(config: Any, verb: str) -> int | None:
    """Write one outcome per episode and print the success rate with its interval."""
    from s2robot.pipeline.agents import load_policy
    from s2robot.pipeline.checkpoint import open_checkpoint
    from s2robot.pipeline.evaluate import EPISODES, ROWS, Evaluation, evaluate, parse_seeds, policy_sha256
    from s2robot.pipeline.rollout import RolloutPool
    from s2robot.pipeline.statistics import wilson
    from s2robot.types import DatasetSpec

    seeds = parse_seeds(config.seeds)
    path, manifest = open_checkpoint(Path(config.checkpoint))
    agent = load_policy(path, config.device, rows=ROWS)
    task = _task(DatasetSpec.from_json(manifest["spec"]), config.task)
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
    return None


def _task(trained_on: DatasetSpec, other: str | None) -> dict[str, Any]:
    """The task that the demonstrations came from, down to its parameters, or the one asked for, seen alike.

    Raises MismatchError when that one speaks another language: proprioception, goal or actions of other names.
    """
    from s2robot.configs import choice
    from s2robot.envs import make_task
    from s2robot.types import require_equal

    cameras = [camera.name for camera in trained_on.observation.cameras]
    if trained_on.task_config and other in (None, "", trained_on.task):
        return {**trained_on.task_config, "cameras": cameras}
    frame_px = max(camera.height for camera in trained_on.observation.cameras)
    task = {**choice("task", other or trained_on.task), "frame_px": frame_px, "cameras": cameras}
    env = make_task(task)
    spec = env.dataset_spec(cameras)
    env.close()
    for part in ("observation", "action"):
        remedy = "evaluate on a task like the one that the checkpoint was trained on"
        require_equal(f"{part} of {task['name']}", getattr(spec, part), getattr(trained_on, part), remedy)
    return task
