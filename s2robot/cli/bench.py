"""`s2robot bench`: speed against what else one could use, in one run."""

from __future__ import annotations

from typing import Any

HELP = "times encoders and training against what users would pick instead"
VERBS = {
    "encoder": "frames per second, latency and memory beside the reference package and the bare backbone",
    "train": "training on cached features beside the frozen encoder inside every step",
}


def run(config: Any, verb: str) -> int | None:
    """Print the table and, if asked, write it as JSON."""
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(config)
    if verb == "encoder":
        _encoder(plain)
    else:
        _train(plain)
    return None


def _encoder(plain: dict[str, Any]) -> None:
    from dataclasses import asdict, fields
    from pathlib import Path

    from s2robot.pipeline.bench.encoder import BenchConfig, as_text, bench_encoder
    from s2robot.storage import write_json

    settings = {field.name: plain[field.name] for field in fields(BenchConfig)}
    modes = plain["modes"] or ()
    settings["modes"] = (modes,) if isinstance(modes, str) else tuple(modes)
    rows = bench_encoder(BenchConfig(**settings))
    print("\n".join(as_text(rows)))
    if plain["out"]:
        write_json(Path(plain["out"]), [asdict(row) for row in rows])
        print(f"written: {plain['out']}")


def _train(plain: dict[str, Any]) -> None:
    from dataclasses import asdict
    from pathlib import Path

    from s2robot.data.episodes import EpisodeStore
    from s2robot.data.features import FeatureCache
    from s2robot.encoders import load_encoder
    from s2robot.pipeline.bench.train import Timing, as_text, bench_train
    from s2robot.pipeline.recipe import recipe_from
    from s2robot.pipeline.train import Job
    from s2robot.storage import write_json

    policy, out = plain["policy"], Path(plain["out"])
    encoder = load_encoder(plain["encoder"], device=plain["device"])
    job = Job(
        EpisodeStore(plain["store"]), encoder, plain["encoder"], FeatureCache(plain["cache"]), policy,
        tuple(plain["cameras"]), recipe_from(policy, plain["recipe"]),
    )  # fmt: skip
    timing = Timing(plain["cached_steps"], plain["uncached_steps"], plain["repeats"], plain["threads"])
    result = bench_train(job, out / "run", timing)
    print("\n".join(as_text(result)))
    write_json(out / "bench_train.json", asdict(result))
    print(f"written: {out / 'bench_train.json'}")
