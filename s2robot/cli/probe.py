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

    from s2robot.errors import S2RobotError
    from s2robot.pipeline.probe.curves import curve_plot, kept_weights
    from s2robot.pipeline.probe.probes import PROBES
    from s2robot.pipeline.probe.run import ProbeConfig, run_probes, run_reconstructions
    from s2robot.pipeline.probe.table import as_text, correlate, plot, reconstructions_as_text, to_json
    from s2robot.storage import read_json, write_atomic, write_json

    plain: Any = OmegaConf.to_container(config)
    settings = {field.name: plain[field.name] for field in fields(ProbeConfig)}
    for key in ("encoders", "tasks", "probes"):
        given = settings[key] or (list(PROBES) if key == "probes" else [])
        settings[key] = (given,) if isinstance(given, str | dict) else tuple(given)
    kept = kept_weights([plain["runs"]] if isinstance(plain["runs"], dict | str) else plain["runs"] or [])
    if kept:
        settings["encoders"] = tuple({name: weights.entry} for name, weights in kept.items())
    report = read_json(Path(config.success)) if config.success else None
    if report is not None and "tasks" not in report:
        raise S2RobotError(f"success={config.success} is no report.json of `s2robot compare`: it has no tasks")
    probe = ProbeConfig(**settings)
    rows = run_probes(probe)
    out = Path(config.out)
    write_json(out / "probe.json", to_json(rows))
    write_atomic(out / "probe.png", plot(rows))
    if kept:
        write_json(out / "curves.json", [{**line, **_place(kept, line)} for line in to_json(rows)])
        write_atomic(out / "curves.png", curve_plot(rows, kept))
    print(as_text(rows))
    found = run_reconstructions(probe)
    if found:
        write_json(out / "reconstruction.json", [vars(line) for line in found])
        print("\n" + reconstructions_as_text(found))
    if report is not None:
        correlations = correlate(rows, report)
        write_json(out / "correlation.json", [vars(line) for line in correlations])
        print("\nrank correlation with success in rollouts (+1: the better probe wins), over encoders")
        if not correlations:
            print("none: no task's arms have the names and the weights of three of the probed encoders")
        for line in correlations:
            interval = "no interval" if line.ci95 is None else f"95 % {line.ci95[0]:+.2f} to {line.ci95[1]:+.2f}"
            print(f"{line.task}: {line.source} {line.probe} ({line.head}): {line.rho:+.2f}, n = {line.n}, {interval}")
    print(f"written: {out / 'probe.json'}, {out / 'probe.png'}")
    return None


def _place(kept: Any, line: Any) -> dict[str, Any]:
    """Where on a curve a line of the table stands; nowhere for the constant predictor."""
    weights = kept.get(line["encoder"])
    return {} if weights is None else {"run": weights.name, "samples": weights.samples, "tmac": weights.tmac}
