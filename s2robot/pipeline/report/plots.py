"""Figures of a report: success against cost, and learning curves. PNG bytes, the same for the same report.

Colours are those of Okabe and Ito (2008), told apart by readers with any common colour blindness; markers differ too,
so that the figures survive a grey printer. Controls (random, blind) are hollow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation, Transform, blended_transform_factory

from s2robot.pipeline.report.png import png_bytes
from s2robot.pipeline.report.records import MATCH_TOLERANCE, matched

DPI = 200
REFERENCE_ARM = "s2"  # the arm whose compute the others are matched to
_STYLES = {  # arm -> colour, marker, filled
    "s2": ("#D55E00", "o", True),
    "s2_unpooled": ("#B2182B", "<", True),
    "large": ("#0072B2", "s", True),
    "fine": ("#009E73", "^", True),
    "fine_unpooled": ("#66A61E", "p", True),
    "base": ("#E69F00", "D", True),
    "random": ("#CC79A7", "o", False),
    "blind": ("#7F7F7F", "X", False),
}
_SPARE = (
    ("#56B4E9", "v", True),
    ("#8C6D31", "P", True),
    ("#5E4FA2", ">", True),
    ("#1B7837", "*", True),
    ("#4D4D4D", "h", True),
)


@dataclass(frozen=True)
class Theme:
    """Ink and paper. Data colours move towards the ink by `lift`, so that blue is read on black too."""

    ink: str
    muted: str
    grid: str
    paper: str
    band: str
    lift: float


LIGHT = Theme(ink="#1c1c1e", muted="#6a6a70", grid="#e4e4e8", paper="#ffffff", band="#f3e6dc", lift=0.0)
DARK = Theme(ink="#ececf0", muted="#a0a0a8", grid="#36363c", paper="#1b1b1f", band="#3a2c22", lift=0.25)
_SLOT_PT = 9.0  # arms of nearly the same cost stand this far apart, or they would hide one another


def success_against_gmac(task: Mapping[str, Any], name: str, theme: Theme = LIGHT) -> bytes:
    """Success rate with Wilson 95 % intervals against GMAC per image; arms of matched compute share a band."""
    costs = [arm["gmac_image"] for arm in task["arms"]]
    return _success_plot(task, name, costs, "Compute of the encoder (GMAC per image)", theme, band=True)


def success_against_latency(task: Mapping[str, Any], name: str, theme: Theme = LIGHT) -> bytes:
    """Success rate with Wilson 95 % intervals against the median latency of one decision, for the arms that were timed
    on the same machine as most: latencies of two machines do not belong on one axis.
    """
    machine, count = Counter(arm.get("machine") for arm in task["arms"]).most_common(1)[0]
    costs = [arm["latency_ms"]["p50"] if arm.get("machine") == machine else None for arm in task["arms"]]
    label = "Latency of one decision at batch 1, median (ms)"
    if others := len(costs) - count:
        label += f"\nleft out: {others} arm{'s' * (others > 1)} timed on another machine"
    return _success_plot(task, name, costs, label, theme, band=False)


def learning_curves(task: Mapping[str, Any], name: str, theme: Theme = LIGHT) -> bytes | None:
    """Training and validation loss of every arm; a line is the mean over training seeds, its band their range.

    None when no run carries a curve.
    """
    if not any(run["curve"]["step"] for arm in task["arms"] for run in arm["runs"]):
        return None
    with rc_context(_rc(theme)):
        figure = Figure(figsize=(7.2, 3.1), layout="constrained")
        axes = figure.subplots(1, 2, sharex=True)
        for panel, (key, label) in zip(axes, (("train_loss", "Training"), ("val_loss", "Validation")), strict=True):
            ends, lows = [], []
            for arm, (colour, _, filled) in _styled(task["arms"], theme):
                mean, low, high, steps = _curve(arm, key)
                if not len(steps):
                    continue
                panel.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
                panel.plot(steps, mean, color=colour, linewidth=1.4, linestyle="-" if filled else (0, (4, 1.5)))
                ends.append((steps[-1], mean[-1], arm["name"], colour))
                lows.append(low.min())
            panel.set(title=f"{label} loss", xlabel="Optimiser step")
            if all(low > 0 for low in lows):  # a likelihood's loss goes below
                panel.set_yscale("log")
                _decimal_ticks(panel)
            panel.margins(x=0)
            _end_labels(panel, ends)
        axes[0].set_ylabel(f"Policy loss on {name}")
        return png_bytes(figure, DPI)


def _success_plot(
    task: Mapping[str, Any], name: str, all_costs: Sequence[float | None], xlabel: str, theme: Theme, band: bool
) -> bytes:
    """An arm whose cost is None is left out."""
    drawn = [(cost, arm) for cost, arm in zip(all_costs, _styled(task["arms"], theme), strict=True) if cost is not None]
    costs, arms = [cost for cost, _ in drawn], [arm for _, arm in drawn]
    with rc_context(_rc(theme)):
        figure = Figure(figsize=(5.2, 3.5), layout="constrained")
        axes = figure.subplots()
        span = max(costs) or 1.0
        axes.set(xlim=(-0.05 * span, 1.36 * span), ylim=(-3, 103), xlabel=xlabel, ylabel="Success rate (%)")
        axes.set_title(f"{name}, {_rollouts(task['arms'])} per arm, Wilson 95 % intervals", loc="left")
        places = [axes.transData] * len(arms)
        for cluster in _clusters(costs, gap=0.06 * span):
            for slot, index in enumerate(cluster):
                places[index] = _shifted(axes, _SLOT_PT * (slot - (len(cluster) - 1) / 2))
                _draw_arm(axes, costs[index], *arms[index], places[index], theme)
        for cluster in _clusters(costs, gap=0.25 * span):  # a label is about a quarter of the axis wide
            _label_column(axes, [(costs[i], *arms[i], places[i]) for i in cluster], theme)
        if band:
            _match_band(axes, task["arms"], places, theme)
        return png_bytes(figure, DPI)


def _draw_arm(
    axes: Axes, x: float, arm: Mapping[str, Any], style: tuple[str, str, bool], place: Transform, theme: Theme
) -> None:
    colour, marker, filled = style
    rate, low, high = (100 * value for value in (arm["success"]["rate"], *arm["success"]["wilson95"]))
    axes.errorbar(
        x, rate, yerr=[[max(0.0, rate - low)], [max(0.0, high - rate)]], color=colour, marker=marker, markersize=6.5,
        markerfacecolor=colour if filled else theme.paper, markeredgewidth=1.3, elinewidth=1.3, capsize=2.5,
        transform=place, zorder=3,
    )  # fmt: skip


def _match_band(axes: Axes, arms: Sequence[Mapping[str, Any]], places: Sequence[Transform], theme: Theme) -> None:
    """Tie the arms within 5 % of the compute of s2 together by a band behind their marks, if there is more than one."""
    reference = next((arm for arm in arms if arm["name"] == REFERENCE_ARM), None)
    tied = [
        (arm["gmac_image"], place) for arm, place in zip(arms, places, strict=True) if matched(arm, reference or arm)
    ]
    if reference is None or len(tied) < 2:
        return
    for gmac, place in tied:  # strokes wide enough to meet: the band follows the marks, which stand beside their cost
        across = blended_transform_factory(place, axes.transAxes)
        axes.plot(
            [gmac, gmac], [0, 1], transform=across, linewidth=2 * _SLOT_PT, color=theme.band,
            solid_capstyle="butt", zorder=0.5,
        )  # fmt: skip
    axes.annotate(
        f"matched compute (s2 ± {100 * MATCH_TOLERANCE:.0f} %)", (reference["gmac_image"], 0),
        xycoords=("data", "axes fraction"), xytext=(0, 4), textcoords="offset points", ha="center", va="bottom",
        fontsize=7, color=theme.muted,
    )  # fmt: skip


def _label_column(
    axes: Axes, cluster: Sequence[tuple[float, Mapping[str, Any], tuple[str, str, bool], Transform]], theme: Theme
) -> None:
    """Name the arms of a cluster (cost, arm, style, place) in one column to its right, each with a thin leader."""
    cluster = sorted(cluster, key=lambda entry: entry[1]["success"]["rate"])
    rates = [100 * arm["success"]["rate"] for _, arm, _, _ in cluster]
    column = _shifted(axes, _SLOT_PT * (len(cluster) - 1) / 2 + 14)
    right = max(x for x, *_ in cluster)
    for (x, arm, (colour, _, _), place), rate, y in zip(cluster, rates, _apart(rates, 6.5, 2.0, 98.0), strict=True):
        axes.annotate(
            f"{arm['name']}  {rate:.0f} %", (x, rate), xycoords=place, xytext=(right, y), textcoords=column,
            va="center", fontsize=8, color=_mix(colour, theme.ink, 0.3), zorder=4,
            arrowprops={
                "arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 5,
            },
        )  # fmt: skip


def _shifted(axes: Axes, right_pt: float) -> Transform:
    """Data coordinates, moved right by so many points."""
    figure = axes.get_figure()
    assert figure is not None
    return axes.transData + ScaledTranslation(right_pt / 72, 0, figure.dpi_scale_trans)


def _end_labels(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Name each curve at its right end, moved apart in log space."""
    if not ends:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", fontsize=8)
        return
    scale = np.log if axes.get_yscale() == "log" else np.asarray
    low, high = scale(axes.get_ylim())
    ends = sorted(ends, key=lambda end: end[1])
    heights = [(scale(value) - low) / (high - low) for _, value, _, _ in ends]
    for (x, value, text, colour), place in zip(ends, _apart(heights, 0.07, 0.0, 1.0), strict=True):
        axes.annotate(
            text, (x, value), xytext=(1.03, place), textcoords="axes fraction", va="center", fontsize=8,
            color=colour, annotation_clip=False,
        )  # fmt: skip


def _apart(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending values apart to at least `gap`, inside [low, high] where they fit, as little as needed."""
    gap = min(gap, (high - low) / max(1, len(values) - 1))
    places = list(values)
    for _ in range(50):
        for i in range(len(places) - 1):
            push = (gap - (places[i + 1] - places[i])) / 2
            if push > 0:
                places[i], places[i + 1] = places[i] - push, places[i + 1] + push
        places = [min(max(p, low + i * gap), high - (len(places) - 1 - i) * gap) for i, p in enumerate(places)]
    return places


def _clusters(values: Sequence[float], gap: float) -> list[list[int]]:
    """Indices grouped by value: neighbours nearer than `gap` belong together, each group in ascending order."""
    groups: list[list[int]] = []
    for index in sorted(range(len(values)), key=lambda i: (values[i], i)):
        if groups and values[index] - values[groups[-1][-1]] <= gap:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _curve(arm: Mapping[str, Any], key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean, least and greatest loss over the runs at the steps where every run that has a curve measured it."""
    curves = [
        {s: v for s, v in zip(run["curve"]["step"], run["curve"][key], strict=True) if v is not None}
        for run in arm["runs"]
        if run["curve"]["step"]
    ]
    steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    values = np.array([[curve[step] for step in steps] for curve in curves]).reshape(len(curves), len(steps))
    if not steps:
        return (np.empty(0),) * 4
    return values.mean(axis=0), values.min(axis=0), values.max(axis=0), np.array(steps)


def _styled(arms: Sequence[Mapping[str, Any]], theme: Theme) -> list[tuple[Mapping[str, Any], tuple[str, str, bool]]]:
    others = [arm["name"] for arm in arms if arm["name"] not in _STYLES]
    styled = []
    for arm in arms:
        colour, marker, filled = _STYLES.get(arm["name"]) or _SPARE[others.index(arm["name"]) % len(_SPARE)]
        styled.append((arm, (_mix(colour, theme.ink, theme.lift), marker, filled)))
    return styled


def _mix(colour: str, other: str, share: float) -> str:
    red, green, blue = (1 - share) * np.array(to_rgb(colour)) + share * np.array(to_rgb(other))
    return to_hex((red, green, blue))


def _rollouts(arms: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted({arm["success"]["n"] for arm in arms})
    return f"{counts[0]} rollouts" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} rollouts"


def _decimal_ticks(axes: Axes) -> None:
    """0.05, 0.1, 0.2 rather than powers of ten: losses rarely span more than a decade or two."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _rc(theme: Theme) -> Any:  # matplotlib types its keys as a Literal of 300 names
    return {
        "font.family": "DejaVu Sans",  # shipped with matplotlib: the same glyphs on every machine
        "font.size": 8.5, "axes.titlesize": 9, "axes.labelsize": 8.5, "axes.titleweight": "bold",
        "figure.facecolor": theme.paper, "axes.facecolor": theme.paper, "text.color": theme.ink,
        "axes.labelcolor": theme.ink, "axes.titlecolor": theme.ink, "axes.edgecolor": theme.muted,
        "xtick.color": theme.muted, "ytick.color": theme.muted, "grid.color": theme.grid, "grid.linewidth": 0.7,
        "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
        "axes.linewidth": 0.8, "xtick.major.size": 3, "ytick.major.size": 3,
    }  # fmt: skip
