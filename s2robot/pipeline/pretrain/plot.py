"""The losses of a pre-training run as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from s2robot.pipeline.report.png import png_bytes

THIN: dict[str, Any] = {"lw": 0.5, "color": "#9a9aa0"}
THICK: dict[str, Any] = {"lw": 1.8, "color": "#0072B2"}


def loss_plot(train: Path, validation: Path) -> bytes:
    """One panel per term: training (thin) and held-out (thick) against steps. PNG bytes."""
    lines, held_out = _read(train), _read(validation)
    terms = [key for key in held_out[0] if key != "step"]
    figure = Figure(figsize=(3.4 * len(terms), 2.8), layout="constrained")
    for number, term in enumerate(terms, 1):
        axes = figure.add_subplot(1, len(terms), number)
        for rows, label, style in ((lines, "training", THIN), (held_out, "held out", THICK)):
            axes.plot([row["step"] for row in rows], [row[term] for row in rows], label=label, **style)
        axes.set(title=term, xlabel="step", ylim=(0, None))
        axes.legend(fontsize=7)
    return png_bytes(figure, dpi=110)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
