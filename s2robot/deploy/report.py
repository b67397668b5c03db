"""A control run to look at: what the policy wanted, what the gate let through, how late things were, what went wrong.

Dims: t ticks, a action.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from s2robot.deploy.log import ChunkEntry, EventEntry, LogReader, PictureEntry, TickEntry
from s2robot.deploy.replay import replay
from s2robot.errors import S2RobotError
from s2robot.pipeline.report.png import png_bytes
from s2robot.pipeline.report.videos import write_mp4
from s2robot.storage import write_atomic

RAW, GATED, HELD = "#c0602a", "#20639b", "#dddddd"


@dataclass(frozen=True)
class _Run:
    """What the plots need. Times in s from the first tick; `raw` is NaN where nothing was proposed."""

    names: tuple[str, ...]
    time_s: Float[np.ndarray, " t"]
    raw: Float[np.ndarray, "t a"]
    gated: Float[np.ndarray, "t a"]
    held: np.ndarray
    ages_ms: dict[str, np.ndarray]
    chunk_s: Float[np.ndarray, " c"]
    chunk_ms: Float[np.ndarray, " c"]
    reasons: Counter[str]
    moments: list[tuple[float, str]]
    pictures: dict[str, list[PictureEntry]]
    rate_hz: float
    sent: int


def report_run(path: Path, out: Path) -> str:
    """Write `report.md`, `actions.png`, `latency.png` and a video per camera into `out`; returns the text.

    Raises DamagedError where the file is no log, S2RobotError where it has no ticks.
    """
    run = _read(path)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "actions.png", _actions(run))
    write_atomic(out / "latency.png", _latency(run))
    videos = []
    for camera, entries in run.pictures.items():
        fps = (len(entries) - 1) / max(entries[-1].now_s - entries[0].now_s, 1e-9) if len(entries) > 1 else 1.0
        videos.append(f"{camera}.mp4")
        write_mp4((entry.decode() for entry in entries), out / videos[-1], fps=round(fps, 2))
    text = _text(path, run, videos)
    write_atomic(out / "report.md", text.encode())
    return text


def _read(path: Path) -> _Run:
    log = LogReader(path)
    ticks: list[TickEntry] = []
    chunks: list[ChunkEntry] = []
    moments: list[tuple[float, str]] = []
    pictures: dict[str, list[PictureEntry]] = {}
    for entry in log.entries():
        if isinstance(entry, TickEntry):
            ticks.append(entry)
        elif isinstance(entry, ChunkEntry):
            chunks.append(entry)
            if entry.verdict:
                moments.append((entry.now_s, f"chunk {entry.arrival.id}: {entry.verdict}"))
        elif isinstance(entry, EventEntry):
            moments.append((entry.now_s, f"{entry.kind}: {entry.text}"))
        else:
            pictures.setdefault(entry.camera, []).append(entry)
    if not ticks:
        raise S2RobotError(f"{path} holds no ticks: the run ended before its first")
    start_s, action = ticks[0].now_s, log.plan.action
    nothing = (np.nan,) * len(action.names)
    cameras = {
        name: [1e3 * (t.now_s - t.sense.cameras[name].received_s) for t in ticks] for name in ticks[0].sense.cameras
    }
    ages = {"proprioception": [1e3 * (t.now_s - t.sense.received_s) for t in ticks], **cameras}
    return _Run(
        names=action.names,
        time_s=np.array([t.now_s - start_s for t in ticks]),
        raw=np.array([t.step.proposal or nothing for t in ticks]),
        gated=np.array([t.step.decision.command for t in ticks]),
        held=np.array([t.step.decision.held for t in ticks]),
        ages_ms={name: np.array(values) for name, values in ages.items()},
        chunk_s=np.array([c.now_s - start_s for c in chunks]),
        chunk_ms=np.array([1e3 * (c.now_s - c.arrival.captured_s) for c in chunks]),
        reasons=Counter(r.split(":")[0] for t in ticks for r in t.step.decision.reasons),
        moments=[(when - start_s, what) for when, what in moments],
        pictures=pictures,
        rate_hz=action.rate_hz,
        sent=sum(t.sent for t in ticks),
    )


def _text(path: Path, run: _Run, videos: Sequence[str]) -> str:
    again = replay(path)
    spacing_ms = 1e3 * np.diff(run.time_s)
    lines = [
        f"# {path.name}",
        "",
        f"{len(run.time_s)} ticks in {run.time_s[-1]:.1f} s, {run.sent} commands sent, {int(run.held.sum())} held.",
        "Every decision comes out again from the log."
        if again.exact
        else f"**{len(again.differences)} decisions come out otherwise: the log does not explain them.**",
        "",
        "| | p50 | p95 | p99 | max |",
        "|---|---|---|---|---|",
        _row("tick to tick (ms)", spacing_ms),
        _row("frame to chunk (ms)", run.chunk_ms),
        *(_row(f"age of {name} (ms)", ages) for name, ages in run.ages_ms.items()),
        "",
        "![actions](actions.png)",
        "![latency](latency.png)",
        *(f"[{name}]({name})" for name in videos),
        "",
        "| what the gate did | ticks |",
        "|---|---|",
        *(f"| {reason} | {count} |" for reason, count in run.reasons.most_common()),
        "",
        *(f"- {when:.2f} s: {what}" for when, what in run.moments),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, values: np.ndarray) -> str:
    if not len(values):
        return f"| {name} | | | | |"
    return f"| {name} | " + " | ".join(f"{x:.1f}" for x in np.percentile(values, [50, 95, 99, 100])) + " |"


def _actions(run: _Run) -> bytes:
    figure = Figure(figsize=(9, 1.3 * len(run.names) + 0.8), layout="constrained")
    rows = figure.subplots(len(run.names), 1, sharex=True, squeeze=False)
    for number, axes in enumerate(rows[:, 0]):
        _shade(axes, run)
        axes.step(run.time_s, run.raw[:, number], where="post", color=RAW, lw=1.0, label="policy")
        axes.step(run.time_s, run.gated[:, number], where="post", color=GATED, lw=1.0, label="after the gate")
        axes.set_ylabel(run.names[number])
    rows[0, 0].legend(loc="upper right", fontsize=8)
    rows[-1, 0].set_xlabel("s (grey: held)")
    return png_bytes(figure)


def _latency(run: _Run) -> bytes:
    figure = Figure(figsize=(9, 5), layout="constrained")
    spacing, ages = figure.subplots(2, 1, sharex=True)
    _shade(spacing, run)
    spacing.plot(run.time_s[1:], 1e3 * np.diff(run.time_s), color=GATED, lw=0.8, label="tick to tick")
    spacing.axhline(1e3 / run.rate_hz, color="black", lw=0.5)
    spacing.set_ylabel("ms")
    spacing.legend(fontsize=8)
    _shade(ages, run)
    for name, values in run.ages_ms.items():
        ages.plot(run.time_s, values, lw=0.8, label=f"age of {name}")
    ages.plot(run.chunk_s, run.chunk_ms, ".", color=RAW, ms=3, label="frame to chunk")
    for when, _ in run.moments:
        ages.axvline(when, color="#b00020", lw=0.8)
    ages.set_ylabel("ms")
    ages.set_xlabel("s (grey: held; red: faults and events)")
    ages.legend(fontsize=8)
    return png_bytes(figure)


def _shade(axes: Any, run: _Run) -> None:
    axes.fill_between(run.time_s, 0, 1, where=run.held, step="post", color=HELD, transform=axes.get_xaxis_transform())
