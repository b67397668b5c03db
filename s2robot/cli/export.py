"""`s2robot export`: a checkpoint becomes a bundle that runs without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HELP = "turns a checkpoint into a bundle for robots: ONNX graphs and a manifest, no torch needed to run it"
VERBS: dict[str, str] = {}


def run(config: Any, verb: str) -> int | None:
    """Raises MismatchError where the bundle does not do what the checkpoint does."""
    from s2robot.deploy.export.run import Export, export

    out = Path(config.out)
    what = Export(
        Path(config.checkpoint), Path(config.store), out, config.precision, int(config.states), int(config.calibration)
    )
    manifest = export(what)
    for against, found in (("float32", manifest.parity["float32"]), ("as trained", manifest.parity["as_trained"])):
        print(
            f"against the checkpoint {against}, {found['states']} states: features differ by {found['features']:.2g} "
            f"(relative rms), actions by {found['action_mean']:.2g} of their range on average, "
            f"{found['action_worst']:.2g} at worst"
        )
    if config.rollouts is not None:
        _compare(config, out)
    print(f"bundle: {out}; next: s2robot serve bundle={out}, or s2robot control bundle={out}")
    return None


def _compare(config: Any, out: Path) -> None:
    from s2robot.deploy.export.rollouts import compare_rollouts
    from s2robot.pipeline.seeds import parse_seeds

    found = compare_rollouts(Path(config.checkpoint), out, parse_seeds(config.rollouts), int(config.workers))
    print(found.text())
