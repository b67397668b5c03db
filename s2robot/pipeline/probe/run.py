"""`s2robot probe`: frames once, tokens once, heads for every encoder, and a table with intervals.

What was finished is kept (one file per encoder and source of frames), so a second start goes on where one stopped.

Dims: f frames, v held-out frames, n tokens, c channels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from s2robot.configs import choice
from s2robot.data.features import FeatureCache, FeatureKey
from s2robot.encoders import Encoder, load_encoder, named_encoders
from s2robot.encoders.interface import weights_identity
from s2robot.errors import S2RobotError, unknown_name
from s2robot.pipeline.encode import cache_name
from s2robot.pipeline.probe.frames import (
    SHARD_FRAMES,
    FrameRecipe,
    draw_frames,
    load_labels,
    load_rgb,
    shard_fingerprint,
)
from s2robot.pipeline.probe.heads import Training
from s2robot.pipeline.probe.probes import PROBES, SCENES, TASK, Probe
from s2robot.pipeline.probe.reconstruct import Reconstruction, reconstruct
from s2robot.pipeline.probe.scores import Tokens
from s2robot.progress import progress, say
from s2robot.storage import fingerprint, write_atomic

VERSION = 7  # raised whenever a probe would give other numbers than before
ENCODE_ROWS = 20
RESAMPLES = 2000
WEIGHTS = 12  # characters of the weights' identity in a row
CONSTANT = "constant"  # the encoder that sees nothing: what labels alone are worth


@dataclass(frozen=True)
class ProbeConfig:
    """What is probed. Random weights count once per weight seed; all encoders share frames, splits and training.

    `encoders`, `target` and `ceiling` are names of the catalogue; encoders and the ceiling may also be
    `{name: {encoder: s2, path: ...}}` (`named_encoders`). An encoder's new name may be target or ceiling. `capacity`
    frames are memorised by the whole model in `capacity_steps` steps (`capacity.py`); 0 for none.
    """

    encoders: tuple[str | Mapping[str, Any], ...]
    tasks: tuple[str, ...]
    probes: tuple[str, ...]
    frames: int
    held_out: int
    camera: str
    frame_px: int
    weight_seeds: int
    steps: int
    target: str | None
    ceiling: str | Mapping[str, Any] | None
    capacity: int
    capacity_steps: int
    out: str
    workers: int
    device: str

    def __post_init__(self) -> None:
        for name in self.probes:
            if name not in PROBES:
                raise unknown_name("probe", name, PROBES)
        asked = {PROBES[name].source for name in self.probes}
        if not self.encoders or (TASK in asked and not self.tasks):
            raise S2RobotError(
                f"encoders={list(self.encoders)}, tasks={list(self.tasks)}: give at least one encoder, and a task for "
                f"{', '.join(name for name in self.probes if PROBES[name].source == TASK) or 'nothing'}"
            )
        if not SHARD_FRAMES <= self.held_out <= self.frames // 2 or self.weight_seeds < 1 or self.steps < 1:
            raise S2RobotError(
                f"held_out={self.held_out} of frames={self.frames}: hold out at least {SHARD_FRAMES} and at most half; "
                f"weight_seeds={self.weight_seeds} and steps={self.steps} are at least 1"
            )
        if self.capacity % SHARD_FRAMES or self.capacity < 0 or self.capacity_steps < 1:
            raise S2RobotError(
                f"capacity={self.capacity}, capacity_steps={self.capacity_steps}: memorise a multiple of "
                f"{SHARD_FRAMES} frames, or 0 for none, in at least one step"
            )

    def encoder_configs(self) -> dict[str, dict[str, Any]]:
        """Name -> configuration of what is probed, in order."""
        return named_encoders(self.encoders)

    def load(self, wanted: str | Mapping[str, Any]) -> Encoder:
        """One of the probed encoders by its name, any of the catalogue, or one that `wanted` describes."""
        known = self.encoder_configs()
        if isinstance(wanted, str) and wanted in known:
            return load_encoder(known[wanted], self.device)
        [found] = named_encoders([wanted]).values()
        return load_encoder(found, self.device)

    def training(self) -> Training:
        """Of the small heads."""
        return Training(steps=self.steps)

    def scenes(self) -> FrameRecipe:
        """The random scenes' frames."""
        return FrameRecipe(SCENES, None, "", self.frame_px, self.frames)


@dataclass(frozen=True)
class Row:
    """One line of the result: a head of a probe on one encoder's tokens. `ci95` is a bootstrap over `frames`, those it
    was scored on; `asked` is the fingerprint of frames, split and training, which rows that are compared share.
    """

    encoder: str
    weights: str
    source: str
    probe: str
    head: str
    value: float
    unit: str
    ci95: tuple[float, float]
    lower_is_better: bool
    frames: int
    weight_seeds: int
    asked: str


def run_probes(config: ProbeConfig) -> list[Row]:
    """Every probe of every encoder on held-out frames, and of the constant predictor. Resumable."""
    folder = Path(config.out)
    cache = FeatureCache(folder / "cache")
    sources, how = _sources(config), asked(config)
    rows: list[Row] = []
    variants = _variants(config)
    for source, (recipe, probes) in sources.items():
        paths = draw_frames(recipe, folder / "frames" / source, config.workers)
        labels = load_labels(paths)
        for name, configs in variants.items():
            encoders = [None if about is None else load_encoder(about, config.device) for about in configs]
            found = [_scores(config, recipe, probes, name, encoder, cache, paths, labels) for encoder in encoders]
            weights = "+".join(weights_identity(encoder)[:WEIGHTS] for encoder in encoders if encoder is not None)
            for probe, head in found[0]:
                about, frames = PROBES[probe], np.stack([scores[probe, head] for scores in found])
                value = float(np.mean([about.reduce(one.sum(0)) for one in frames]))
                rows.append(
                    Row(name, weights, source, probe, head, value, about.unit, bootstrap(frames, about.reduce),
                        about.lower_is_better, frames.shape[1], len(encoders), how[source, probe])
                )  # fmt: skip
    return rows


def run_reconstructions(config: ProbeConfig) -> list[Reconstruction]:
    """Every encoder's tokens of the random scenes to the target's. None without a target."""
    if config.target is None:
        return []
    recipe, folder = config.scenes(), Path(config.out)
    paths = draw_frames(recipe, folder / "frames" / SCENES, config.workers)

    def tokens(wanted: str | Mapping[str, Any]) -> Tokens:
        name = wanted if isinstance(wanted, str) else str(next(iter(wanted)))
        return _tokens(config, recipe, name, config.load(wanted), FeatureCache(folder / "cache"), paths)

    target = tokens(config.target)
    ceiling = None if config.ceiling is None else tokens(config.ceiling)
    sources = [name for name in config.encoder_configs() if name != config.target]
    return [reconstruct(name, tokens(name), config.target, target, ceiling) for name in sources]


def asked(config: ProbeConfig) -> dict[tuple[str, str], str]:
    """(source, probe) -> what `Row.asked` will say."""
    return {
        (source, probe.name): fingerprint(_asked(config, recipe, probe))[:16]
        for source, (recipe, probes) in _sources(config).items()
        for probe in probes
    }


def _sources(config: ProbeConfig) -> dict[str, tuple[FrameRecipe, list[Probe]]]:
    """Where frames come from, and which of the wanted probes ask them."""
    wanted = [PROBES[name] for name in config.probes]
    sources: dict[str, tuple[FrameRecipe, list[Probe]]] = {}
    for task in config.tasks:
        recipe = FrameRecipe(task, choice("task", task), config.camera, config.frame_px, config.frames)
        sources[task] = recipe, [probe for probe in wanted if probe.source == TASK]
    sources[SCENES] = config.scenes(), [probe for probe in wanted if probe.source == SCENES]
    return {name: found for name, found in sources.items() if found[1]}


def _variants(config: ProbeConfig) -> dict[str, list[dict[str, Any] | None]]:
    """Configurations by name: several weight seeds where the weights are random; the constant predictor first.

    All of them are tried, target and ceiling too: a slip must not show after hours of probing.
    """
    for wanted in (config.target, config.ceiling):
        if wanted is None:
            continue
        encoder = config.load(wanted)
        if not encoder.sizes:
            raise S2RobotError(f"encoder {wanted!r} sees nothing; it is no target or ceiling of a reconstruction")
        encoder.check_frame(config.frame_px, config.frame_px)
    found: dict[str, list[dict[str, Any] | None]] = {CONSTANT: [None]}
    for name, about in config.encoder_configs().items():
        encoder = load_encoder(about, config.device)
        if not encoder.sizes:
            raise S2RobotError(f"encoder {name!r} sees nothing; the constant predictor is in the table anyway")
        encoder.check_frame(config.frame_px, config.frame_px)
        seeds = range(config.weight_seeds) if about.get("weights") == "random" else ()
        found[name] = [about | {"seed": seed} for seed in seeds] or [about]
    return found


def _scores(
    config: ProbeConfig,
    recipe: FrameRecipe,
    probes: list[Probe],
    name: str,
    encoder: Encoder | None,
    cache: FeatureCache,
    paths: list[Path],
    labels: Mapping[str, np.ndarray],
) -> dict[tuple[str, str], np.ndarray]:
    """(probe, head) -> statistics per held-out frame, from the file of a finished run where there is one."""
    data: Tokens | None = None
    scores: dict[tuple[str, str], np.ndarray] = {}
    for probe in probes:
        identity = {**_asked(config, recipe, probe), "encoder": CONSTANT if encoder is None else encoder.fingerprint}
        path = Path(config.out) / "parts" / f"{recipe.source}-{probe.name}-{fingerprint(identity)[:16]}.npz"
        if not path.exists():
            say(f"probe {probe.name} of {name} on {recipe.source}")
            data = data or _tokens(config, recipe, name, encoder, cache, paths)
            buffer = io.BytesIO()
            arrays: Any = dict(probe.heads(data, labels, config.training()))
            np.savez_compressed(buffer, **arrays)
            write_atomic(path, buffer.getvalue())
        with np.load(path, allow_pickle=False) as kept:
            scores |= {(probe.name, head): kept[head] for head in kept.files}
    return scores


def _asked(config: ProbeConfig, recipe: FrameRecipe, probe: Probe) -> dict[str, Any]:
    """What determines a probe's figures besides the encoder."""
    return {
        "version": VERSION,
        "probe": probe.name,
        "frames": [recipe.identity(), recipe.frames, config.held_out],
        "training": asdict(config.training()),
    }


def _tokens(
    config: ProbeConfig,
    recipe: FrameRecipe,
    name: str,
    encoder: Encoder | None,
    cache: FeatureCache,
    paths: list[Path],
) -> Tokens:
    """All frames' tokens, through the feature cache."""
    if encoder is None:
        return Tokens(torch.zeros(recipe.frames, 1, 1), (1, 1), config.held_out)
    parts = []
    for index, path in enumerate(progress(paths, len(paths), f"encode {name}", "shard")):
        key = FeatureKey(encoder.fingerprint, shard_fingerprint(recipe, index), recipe.camera or SCENES)
        found = cache.get(key)
        if found is None:
            images = torch.from_numpy(load_rgb(path)).permute(0, 3, 1, 2)
            tokens = torch.cat([encoder(batch).tokens.cpu() for batch in images.split(ENCODE_ROWS)])
            cache.put(key, tokens.numpy().astype(np.float16), encoder.grid, encoder_name=cache_name(encoder))
            found = cache.read(key)
        parts.append(torch.from_numpy(found.tokens))
    return Tokens(torch.cat(parts), encoder.grid, config.held_out)


def bootstrap(
    frames: Float64[np.ndarray, "w v ..."],
    reduce: Callable[[np.ndarray], float],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean over weight seeds (w) of `reduce(sum over frames)`: both are resampled, the same
    frames for all seeds (Efron and Tibshirani, 1993, section 13.3).
    """
    seeds, count = frames.shape[:2]
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(count, np.full(count, 1 / count), resamples)
    sums = [draws @ one.reshape(count, -1) for one in frames]
    chosen = rng.integers(seeds, size=(resamples, seeds))
    values = [
        np.mean([reduce(sums[which][i].reshape(frames.shape[2:])) for which in chosen[i]]) for i in range(resamples)
    ]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
