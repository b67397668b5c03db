"""`s2robot encode`: every frame of a store through a frozen encoder, once, into the feature cache.

Dims: t time steps, n tokens, c channels.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from s2robot.data.config import DataConfig
from s2robot.data.episodes import EpisodeStore
from s2robot.data.features import FeatureCache, FeatureKey, shift_view
from s2robot.encoders.interface import Encoder
from s2robot.errors import S2RobotError
from s2robot.progress import progress

FRAMES_PER_BATCH = 32


@dataclass(frozen=True)
class EncodeResult:
    """What was computed now; `frames` is 0 when everything was cached."""

    frames: int
    episodes: int
    seconds: float

    @property
    def frames_s(self) -> float | None:
        """Frames per second, reading and writing included; None when nothing was computed."""
        return self.frames / self.seconds if self.frames else None


def encode(
    store: EpisodeStore,
    encoder: Encoder,
    cache: FeatureCache,
    cameras: Collection[str],
    views: Collection[int] = (0,),
    episodes: Sequence[str] | None = None,
    stride: int = 1,
) -> EncodeResult:
    """Fill the cache for the given cameras and views of every `stride`-th step of the given episodes (all by default).

    What is cached is not computed again; one changed episode is encoded alone. Raises S2RobotError for a store whose
    frames are smaller than the encoder's largest scale.
    """
    if not encoder.sizes:
        return EncodeResult(0, 0, 0.0)
    check_frame_size(store, encoder, cameras)
    chosen = store.episodes if episodes is None else list(episodes)
    by_fingerprint = {store.fingerprint(episode): episode for episode in chosen}
    keys = cache.missing(encoder.fingerprint, list(by_fingerprint), cameras, views, stride)
    start_s, frames = time.perf_counter(), 0
    loaded: tuple[str, dict[str, np.ndarray]] = ("", {})
    for key in progress(keys, len(keys), f"encode {cache_name(encoder)}", "clip"):
        if key.episode != loaded[0]:
            loaded = (key.episode, store.read(by_fingerprint[key.episode], images=cameras).images)
        seed = store.entry(by_fingerprint[key.episode]).seed
        images = shift_view(loaded[1][key.camera], key.view, seed)[::stride]
        put(cache, key, encoder, images)
        frames += len(images)
    return EncodeResult(frames, len({key.episode for key in keys}), time.perf_counter() - start_s)


def encode_for_training(store: EpisodeStore, encoder: Encoder, cache: FeatureCache, config: DataConfig) -> EncodeResult:
    """Fill the cache with what training reads: shifted views of the training episodes, plain held-out ones."""
    train, held_out = config.split(store)
    parts = [
        encode(store, encoder, cache, config.cameras, config.view_ids, train, config.stride),
        encode(store, encoder, cache, config.cameras, (0,), held_out, config.stride),
    ]
    return EncodeResult(*(sum(getattr(part, name) for part in parts) for name in ("frames", "episodes", "seconds")))


def put(cache: FeatureCache, key: FeatureKey, encoder: Encoder, images: np.ndarray) -> None:
    """Encode one clip of frames and store its tokens as float16."""
    frames = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    parts = [encoder(batch).tokens.half().cpu() for batch in frames.split(FRAMES_PER_BATCH)]
    cache.put(key, torch.cat(parts).numpy(), encoder.grid, encoder_name=cache_name(encoder))


def cache_name(encoder: Encoder) -> str:
    """What people call it in `s2robot cache`: the weights and the sizes they look at, e.g. `vit_tiny_112@112+224`."""
    return f"{encoder.name}@{'+'.join(map(str, encoder.sizes))}"


def check_frame_size(store: EpisodeStore, encoder: Encoder, cameras: Collection[str]) -> None:
    """Raise S2RobotError unless every camera's frames are large enough for the encoder."""
    for name in cameras:
        camera = store.spec.observation.camera(name)
        try:
            encoder.check_frame(camera.height, camera.width)
        except S2RobotError as error:
            raise S2RobotError(f"camera {name} of {store.path}, encoder {encoder.name}: {error}") from error
