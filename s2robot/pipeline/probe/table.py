"""The probes' results for people: a table, a plot, and which probe foretells success in rollouts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from s2robot.pipeline.probe.capacity import Capacity
from s2robot.pipeline.probe.reconstruct import Reconstruction
from s2robot.pipeline.probe.run import WEIGHTS, Row
from s2robot.pipeline.report.png import png_bytes


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation between a probe and success over `n` encoders: +1 where the better probe wins.

    `ci95` is Bonett and Wright's (2000) interval, None below four encoders, where there is none.
    """

    source: str
    probe: str
    head: str
    task: str
    rho: float
    n: int
    ci95: tuple[float, float] | None


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Plain types, one mapping per row."""
    return [{**vars(row), "ci95": list(row.ci95)} for row in rows]


def as_text(rows: Sequence[Row]) -> str:
    """One line per probe and head, one column per encoder; the interval under each value."""
    encoders = list(dict.fromkeys(row.encoder for row in rows))
    by_key = {(row.source, row.probe, row.head, row.encoder): row for row in rows}
    lines = [f"{'':46}" + "".join(f"{name:>16}" for name in encoders)]
    for source, probe, head in dict.fromkeys((row.source, row.probe, row.head) for row in rows):
        found = [by_key.get((source, probe, head, name)) for name in encoders]
        unit = next(row.unit for row in found if row)
        lines.append(f"{f'{source}: {probe}, {unit} ({head})':46}" + "".join(_cell(row) for row in found))
        lines.append(f"{'':46}" + "".join(_interval(row) for row in found))
    return "\n".join(lines)


def reconstructions_as_text(found: Sequence[Reconstruction]) -> str:
    """One line per source: l, l0, I in bits, R2 with its interval, and I* and r where there is a ceiling."""
    heads = f"{'l':>9}{'l0':>9}{'I bits':>9}{'R2':>8}   95 % interval {'I*':>7}{'r':>8}"
    lines = [f"{'tokens to those of ' + found[0].target:28}{heads}"]
    for line in found:
        best, ratio = ("-" if x is None else f"{x:.2f}" for x in (line.bits_ceiling, line.ratio))
        interval = f"{line.r2_ci95[0]:.3f} to {line.r2_ci95[1]:.3f}"
        figures = f"{line.loss:9.4f}{line.loss_constant:9.4f}{line.bits:9.3f}{line.r2:8.3f}"
        lines.append(f"{line.source:28}{figures}   {interval:14}{best:>8}{ratio:>8}")
    return "\n".join(lines)


def capacities_as_text(found: Sequence[Capacity]) -> str:
    """One line per encoder."""
    first = found[0]
    lines = [f"{first.frames} frames memorised in {first.steps} steps, nats (a guess: {first.guess:.2f})"]
    for line in found:
        lines.append(f"{line.encoder:28}{line.nats:9.3f}   {line.ci95[0]:.3f} to {line.ci95[1]:.3f}")
    return "\n".join(lines)


def plot(rows: Sequence[Row]) -> bytes:
    """Small multiples: each probe's value per encoder with its interval, heads side by side. PNG bytes."""
    panels = list(dict.fromkeys((row.source, row.probe) for row in rows))
    columns = min(4, len(panels))
    figure = Figure(figsize=(4.2 * columns, 3.2 * math.ceil(len(panels) / columns)), layout="constrained")
    for number, (source, probe) in enumerate(panels, 1):
        axes = figure.add_subplot(math.ceil(len(panels) / columns), columns, number)
        here = [row for row in rows if (row.source, row.probe) == (source, probe)]
        names = list(dict.fromkeys(row.encoder for row in here))
        heads = list(dict.fromkeys(row.head for row in here))
        for offset, head in enumerate(heads):
            found = [row for row in here if row.head == head]
            at = np.array([names.index(row.encoder) for row in found]) + 0.2 * (offset - (len(heads) - 1) / 2)
            values = np.array([row.value for row in found])
            below = values - [row.ci95[0] for row in found]
            above = [row.ci95[1] for row in found] - values
            axes.errorbar(at, values, np.maximum([below, above], 0), fmt="osDv"[offset % 4], label=head, capsize=2)
        axes.set_xticks(range(len(names)), names, rotation=30)
        axes.set_ylim(bottom=0)
        axes.set_title(f"{source}: {probe}", fontsize=10)
        axes.set_ylabel(f"{here[0].unit} ({'lower' if here[0].lower_is_better else 'higher'} is better)", fontsize=8)
        axes.legend(fontsize=8)
    return png_bytes(figure)


def correlate(rows: Sequence[Row], report: Mapping[str, Any]) -> list[Correlation]:
    """Each probe against the success rates of a comparison's report, over the encoders that both have.

    Arms and encoders of one name but other weights are two, and left out.
    """
    found = []
    for task, content in report["tasks"].items():
        arms = {arm["name"]: arm for arm in content["arms"]}
        success = {
            row.encoder: arms[row.encoder]["success"]["rate"]
            for row in rows
            if row.encoder in arms and str(arms[row.encoder]["weights_sha256"])[:WEIGHTS] in row.weights.split("+")
        }
        for source, probe, head in dict.fromkeys((row.source, row.probe, row.head) for row in rows):
            here = [
                row
                for row in rows
                if (row.source, row.probe, row.head) == (source, probe, head) and row.encoder in success
            ]
            if len(here) < 3 or (source in report["tasks"] and source != task):
                continue
            sign = -1 if here[0].lower_is_better else 1
            rho = stats.spearmanr([sign * row.value for row in here], [success[row.encoder] for row in here]).statistic
            if math.isfinite(rho):
                found.append(
                    Correlation(source, probe, head, task, float(rho), len(here), _interval_of(rho, len(here)))
                )
    return found


def _interval_of(rho: float, n: int) -> tuple[float, float] | None:
    if n < 4:
        return None
    if abs(rho) > 0.999:  # Fisher's transform ends here; the sample says nothing against 1
        half = 1.96 * math.sqrt(1.5 / (n - 3))
        edge = math.tanh(math.atanh(0.999) - half)
        return (edge, 1.0) if rho > 0 else (-1.0, -edge)
    half = 1.96 * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half)


def _cell(row: Row | None) -> str:
    return f"{'-' if row is None else f'{row.value:.1f}':>16}"


def _interval(row: Row | None) -> str:
    return f"{'' if row is None else f'{row.ci95[0]:.1f} to {row.ci95[1]:.1f}':>16}"
