"""`s2robot export`: a checkpoint, or an encoder alone, becomes a bundle that runs without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2robot.errors import S2RobotError

HELP = "turns a checkpoint or an encoder into a bundle for robots: ONNX graphs and a manifest, no torch needed"
VERBS: dict[str, str] = {}


def run(config: Any, verb: str) -> int | None:
    """Raises MismatchError where the bundle does not do what the checkpoint does."""
    if (config.checkpoint is None) == (config.get("encoder") is None):
        raise S2RobotError("export needs checkpoint=FOLDER for a policy, or encoder=NAME for an encoder alone")
    if config.checkpoint is None and config.rollouts is not None:
        raise S2RobotError("rollouts= compares a checkpoint with its bundle; an encoder alone decides nothing")
    if config.checkpoint is None:
        _encoder(config)
    else:
        _policy(config)
    return None


def _encoder(config: Any) -> None:
    from s2robot.deploy.export.encoder import EncoderExport, export_encoder

    out = Path(config.out)
    what = EncoderExport(config.encoder, Path(config.store), config.camera, out, **_how(config))
    manifest = export_encoder(what)
    (rows, columns), parity = manifest.grid, manifest.parity
    print(f"{parity['states']} frames: features differ by {parity['features']:.2g} (relative rms) from torch's float32")
    print(
        f"{out}/encoder.onnx: image uint8 (1, {manifest.camera.height}, {manifest.camera.width}, 3) -> tokens float32 "
        f"(1, {rows * columns}, {manifest.channels}); docs/deployment.md shows how to call it from C++"
    )


def _policy(config: Any) -> None:
    from s2robot.deploy.export.run import Export, export

    out = Path(config.out)
    manifest = export(Export(Path(config.checkpoint), Path(config.store), out, **_how(config)))
    for against, found in (("float32", manifest.parity["float32"]), ("as trained", manifest.parity["as_trained"])):
        print(
            f"against the checkpoint {against}, {found['states']} states: features differ by {found['features']:.2g} "
            f"(relative rms), actions by {found['action_mean']:.2g} of their range on average, "
            f"{found['action_worst']:.2g} at worst"
        )
    if config.rollouts is not None:
        _compare(config, out)
    print(f"bundle: {out}; next: s2robot serve bundle={out}, or s2robot control bundle={out}")


def _how(config: Any) -> dict[str, Any]:
    return {"precision": config.precision, "states": int(config.states), "calibration": int(config.calibration)}


def _compare(config: Any, out: Path) -> None:
    from s2robot.deploy.export.rollouts import compare_rollouts
    from s2robot.pipeline.seeds import parse_seeds

    found = compare_rollouts(Path(config.checkpoint), out, parse_seeds(config.rollouts), int(config.workers))
    print(found.text())
