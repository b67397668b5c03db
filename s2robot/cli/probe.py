"""`s2robot probe`: what the features know, without rollouts."""

from __future__ import annotations

from typing import Any

HELP = "asks frozen features where things are, what they are and how far: small heads, intervals, no rollouts"
VERBS: dict[str, str] = {}


def run(config: Any, verb: str) -> int | None:
    """Print the tables; write them as JSON, and a plot, into `out`."""
    from dataclasses import fields
    from pathlib import Path

    from omegaconf import OmegaConf

    from s2robot.configs import listed
    from s2robot.errors import S2RobotError
    from s2robot.pipeline.probe.curves import kept_weights
    from s2robot.pipeline.probe.probes import PROBES
    from s2robot.pipeline.probe.result import probe, read_rows
    from s2robot.pipeline.probe.run import ProbeConfig
    from s2robot.storage import read_json
    from s2robot.targets import call_checked

    plain: Any = OmegaConf.to_container(config)
    settings = {field.name: plain[field.name] for field in fields(ProbeConfig)}
    for key in ("encoders", "tasks", "probes"):
        settings[key] = listed(settings[key])
    settings["probes"] = settings["probes"] or tuple(PROBES)
    kept = kept_weights(listed(plain["runs"]))
    if kept:
        settings["encoders"] = tuple({name: weights.entry} for name, weights in kept.items())
    report = read_json(Path(config.success)) if config.success else None
    if report is not None and "tasks" not in report:
        raise S2RobotError(f"success={config.success} is no report.json of `s2robot compare`: it has no tasks")
    beside = [row for path in listed(plain["beside"]) for row in read_rows(Path(path))]
    result, out = probe(call_checked(ProbeConfig, "probe", **settings), kept, report, beside), Path(config.out)
    result.write(out)
    print("\n".join(result.lines()))
    print(f"written: {out / 'probe.json'}, {out / 'probe.png'}")
    return None
