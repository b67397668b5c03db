"""`s2robot train`: a policy on cached features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HELP = "trains a policy on the cached features of a store"
VERBS: dict[str, str] = {}


def run(config: Any, verb: str) -> int | None:
    """Encode what is missing, train, and say where the checkpoint lies."""
    from omegaconf import OmegaConf

    from s2robot.data.episodes import EpisodeStore
    from s2robot.data.features import FeatureCache
    from s2robot.encoders import load_encoder
    from s2robot.encoders.backbone import resolve_device
    from s2robot.encoders.load import encoder_config
    from s2robot.pipeline.encode import encode_for_training
    from s2robot.pipeline.train import recipe_from, train

    store, cache = EpisodeStore(config.store), FeatureCache(config.cache)
    encoder = load_encoder(config.encoder, device=config.device)
    cameras = tuple(config.cameras)
    policy: Any = OmegaConf.to_container(config.policy, resolve=True)
    recipe = recipe_from(policy, config.recipe)
    encode_for_training(store, encoder, cache, cameras, recipe.views, recipe.validation_fraction)
    device = resolve_device(config.device)
    result = train(
        store, encoder, encoder_config(config.encoder), cache, policy, cameras, recipe, Path(config.out), device
    )
    last = result.curve[-1]
    print(
        f"trained in {result.train_s:.0f} s, validation loss {last['val_loss']:.4f}; checkpoint {result.checkpoint}; "
        f"next: s2robot evaluate checkpoint={config.out} seeds=10000:10050 out=..."
    )
    return None
