"""What probes find in the weights that a pre-training kept on its way, against samples and against compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from s2robot.encoders import load_encoder
from s2robot.errors import S2RobotError
from s2robot.pipeline.pretrain.mae import MASKED
from s2robot.pipeline.probe.run import Row
from s2robot.pipeline.report.png import png_bytes
from s2robot.storage import read_json

FORWARD_AND_BACKWARD = 3  # a training step costs about three forward passes


@dataclass(frozen=True)
class Kept:
    """Weights of a run after `samples` training samples, which cost `tmac` (1e12 multiply-accumulates)."""

    name: str
    entry: Mapping[str, Any]
    samples: int
    tmac: float


def kept_weights(runs: Sequence[Any]) -> dict[str, Kept]:
    """Name of an encoder to probe -> weights, of every `{name: {encoder: s2, run: FOLDER}}`.

    Raises S2RobotError for another form, a name given twice, and a run that kept nothing.
    """
    found: dict[str, Kept] = {}
    for run in runs:
        content = next(iter(run.values())) if isinstance(run, Mapping) and len(run) == 1 else None
        if not isinstance(content, Mapping) or not all(isinstance(content.get(key), str) for key in ("encoder", "run")):
            raise S2RobotError(f"{run!r} is no run; give {{name: {{encoder: s2, run: FOLDER}}}}")
        name, folders = str(next(iter(run))), sorted((Path(content["run"]) / "kept").glob("step-*"))
        if any(weights.name == name for weights in found.values()):
            raise S2RobotError(f"run {name!r} is listed twice; give one of them another name")
        if not folders:
            raise S2RobotError(f"{content['run']} kept no weights on the way; pre-train with keep_every=300, say")
        recipe = read_json(folders[0] / "recipe.json")["recipe"]
        tile = load_encoder("hf", "cpu", path=str(folders[0]), sizes=[recipe["tile_px"]])
        passes = sum(scale**2 for scale in recipe["scales"]) * bool(recipe["dense"])
        passes += (1 - MASKED) * bool(recipe["mae"])  # its decoder is left out
        per_sample = FORWARD_AND_BACKWARD * tile.cost().gmac * passes
        for folder in folders:
            step = int(folder.name.removeprefix("step-"))
            samples = step * recipe["batch_size"]
            entry = {"encoder": content["encoder"], "path": str(folder)}
            found[f"{name}@{step}"] = Kept(name, entry, samples, samples * per_sample / 1000)
    return found


def curve_plot(rows: Sequence[Row], kept: Mapping[str, Kept]) -> bytes:
    """A line per run and head: above against samples, below against compute; the band is the interval. PNG bytes."""
    panels = list(dict.fromkeys((row.source, row.probe, row.unit) for row in rows))
    figure = Figure(figsize=(4.2 * len(panels), 6.0), layout="constrained")
    for column, (source, probe, unit) in enumerate(panels):
        for below, (axis, label) in enumerate((("samples", "training samples"), ("tmac", "training compute, TMAC"))):
            axes = figure.add_subplot(2, len(panels), 1 + column + below * len(panels))
            lines: dict[tuple[str, str], list[tuple[float, Row]]] = {}
            for row in rows:
                if (row.source, row.probe) == (source, probe) and row.encoder in kept:
                    at = kept[row.encoder]
                    lines.setdefault((at.name, row.head), []).append((getattr(at, axis), row))
            for (name, head), points in lines.items():
                points.sort(key=lambda point: point[0])
                x, found = [at for at, _ in points], [row for _, row in points]
                [line] = axes.plot(x, [row.value for row in found], marker="o", markersize=3, label=f"{name}, {head}")
                low, high = zip(*(row.ci95 for row in found), strict=True)
                axes.fill_between(x, low, high, alpha=0.15, color=line.get_color())
            top = max(row.ci95[1] for points in lines.values() for _, row in points)
            axes.set(title=f"{source}: {probe}", xlabel=label, ylabel=unit, xlim=(0, None), ylim=(0, 1.05 * top))
            axes.legend(fontsize=7)
    return png_bytes(figure)
