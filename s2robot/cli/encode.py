"""`s2robot encode`: frames of a store into the feature cache."""

from __future__ import annotations

from typing import Any

HELP = "runs a frozen encoder once over the frames of a store"
VERBS: dict[str, str] = {}


def run(config: Any, verb: str) -> int | None:
    """Encode what the cache lacks."""
    from s2robot.configs import listed
    from s2robot.data.config import DataConfig
    from s2robot.data.episodes import EpisodeStore
    from s2robot.data.features import FeatureCache
    from s2robot.encoders import load_encoder
    from s2robot.pipeline.encode import encode_for_training

    store = EpisodeStore(config.store)
    encoder = load_encoder(config.encoder, device=config.device)
    read = DataConfig(
        listed(config.cameras),
        views=config.views,
        stride=config.stride,
        validation_fraction=config.validation_fraction,
    )
    result = encode_for_training(store, encoder, FeatureCache(config.cache), read)
    if result.frames_s is None:
        print(f"all {len(store)} episodes were encoded already; features in {config.cache}")
    else:
        print(
            f"{result.frames} frames of {result.episodes} episodes at {result.frames_s:.0f} frames/s; "
            f"features in {config.cache}"
        )
    return None
