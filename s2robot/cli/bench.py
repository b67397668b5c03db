"""`s2robot bench`: speed against what else one could use, in one run."""

from __future__ import annotations

from typing import Any

HELP = "times an encoder against the public reference package and the bare backbone"
VERBS = {"encoder": "frames per second, latency and memory, per dtype and mode, and ratios"}


def run(config: Any, verb: str) -> int | None:
    """Print the table and, if asked, write it as JSON."""
    from dataclasses import asdict, fields
    from pathlib import Path

    from omegaconf import OmegaConf

    from s2robot.pipeline.bench.encoder import BenchConfig, as_text, bench_encoder
    from s2robot.storage import write_json

    plain: Any = OmegaConf.to_container(config)
    settings = {field.name: plain[field.name] for field in fields(BenchConfig)}
    modes = plain["modes"] or ()
    settings["modes"] = (modes,) if isinstance(modes, str) else tuple(modes)
    rows = bench_encoder(BenchConfig(**settings))
    print("\n".join(as_text(rows)))
    if config.out:
        write_json(Path(config.out), [asdict(row) for row in rows])
        print(f"written: {config.out}")
    return None
