"""`s2robot train`: a policy on cached features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HELP = "trains a policy on the cached features of a store"
VERBS: dict[str, str] = {}


def run(config: Any, verb: str) -> int | None:
    """Encode what is missing, train, and say where the checkpoint lies."""
    from contextlib import nullcontext

    from omegaconf import OmegaConf

    from s2robot.configs import listed
    from s2robot.data.episodes import EpisodeStore
    from s2robot.data.features import FeatureCache
    from s2robot.encoders import load_encoder
    from s2robot.encoders.backbone import resolve_device
    from s2robot.encoders.load import encoder_config
    from s2robot.pipeline.distributed import process_group
    from s2robot.pipeline.job import Job
    from s2robot.pipeline.recipe import recipe_from
    from s2robot.pipeline.rollout import RolloutPool
    from s2robot.pipeline.run import finished_run
    from s2robot.pipeline.simulation import simulated_task
    from s2robot.pipeline.train import train

    policy: Any = OmegaConf.to_container(config.policy, resolve=True)
    recipe = recipe_from(policy, config.recipe)
    out = Path(config.out)
    store, cache, cameras = EpisodeStore(config.store), FeatureCache(config.cache), listed(config.cameras)
    with process_group(str(resolve_device(config.device))) as group:
        encoder = load_encoder(config.encoder, device=str(group.device))
        job = Job(store, encoder, encoder_config(config.encoder), cache, policy, cameras, recipe)
        pool: Any = nullcontext()
        if group.first:
            job.check(group.world)
            if recipe.rollouts:
                pool = RolloutPool(simulated_task(store.spec), config.workers)
            if finished_run(out, job.identity()) is None:  # another run in `out` is said before hours of encoding
                job.encode()
        group.wait()
        with pool as open_pool:
            result = train(job, out, group, open_pool)
        if not group.first:
            return None
    points = [point for point in result.curve if "val_loss" in point]
    print(
        f"trained in {result.train_s:.0f} s, validation loss {points[-1]['val_loss']:.4f}; "
        f"checkpoint {result.checkpoint}; next: s2robot evaluate checkpoint={config.out} seeds=10000:10050 out=..."
    )
    return None
