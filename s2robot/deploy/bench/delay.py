"""Success against the age of what was decided on: answers come later and later, with and without overlapped chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from s2robot.deploy.bench.closed_loop import Bench, real_time
from s2robot.deploy.bench.episodes import Delayed, Setting, summarise
from s2robot.deploy.deciders import LocalDecider
from s2robot.deploy.runtime import BundlePolicy
from s2robot.pipeline.report.png import png_bytes
from s2robot.pipeline.statistics import wilson
from s2robot.storage import read_json, write_atomic, write_json

DELAYS_MS = (0, 25, 50, 100, 200)
HEADROOM_S = 0.1  # of the age limit over the delay


def bench_delay(bench: Bench, threads: int) -> list[dict[str, Any]]:
    """One row per delay: overlapped and not, the age limit raised by the delay; and overlapped with the default limit.

    Rows of the same bundle, seeds and limits that were measured before are kept (`delay.json` in the bench's folder);
    those of others stay in the file. Draws `delay.png` beside it.
    """
    policy = BundlePolicy(bench.bundle, threads=threads)
    path = bench.out / "delay.json"
    known: list[dict[str, Any]] = read_json(path) if path.exists() else []
    what = _what(bench, policy)
    rows = [row for row in known if what.items() <= row.items()]
    others = [row for row in known if row not in rows]
    for delay_ms in DELAYS_MS:
        for overlap, raised in ((True, True), (False, True), (True, False)):
            wanted = {"delay_ms": delay_ms, "overlap": overlap, "age_limit": "raised" if raised else "default"}
            if any(wanted.items() <= row.items() for row in rows):
                continue
            setting = Setting(overlap, age_s=delay_ms / 1e3 + HEADROOM_S if raised else None)
            decider = Delayed(LocalDecider(policy), delay_ms / 1e3)
            label = f"{delay_ms} ms, {'overlapped' if overlap else 'holding'}, {wanted['age_limit']} age limit"
            found = summarise(real_time(bench, policy, decider, setting, label))
            k, n = found["success"]["k"], found["success"]["n"]
            interval = wilson(k, n)
            rows.append({**what, **wanted, "wilson95": [interval.low, interval.high], **found})
            write_json(path, others + rows)
    write_atomic(bench.out / "delay.png", plot(rows))
    return rows


def _what(bench: Bench, policy: BundlePolicy) -> dict[str, Any]:
    """What a row was measured of, in plain JSON types."""
    return {
        "checkpoint_sha256": policy.identity.checkpoint_sha256,
        "precision": policy.manifest.precision,
        "seeds": list(bench.seeds),
        "limits": bench.robot["limits"],
    }


def as_text(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table."""
    head = f"{'delay ms':>8} {'chunks':>10} {'age limit':>9} {'success':>9} {'95 %':>14} {'held %':>7} {'seam':>6}"
    return [head] + [
        f"{r['delay_ms']:8} {'overlapped' if r['overlap'] else 'holding':>10} {r['age_limit']:>9} "
        f"{r['success']['k']:>4}/{r['success']['n']:<4} {r['wilson95'][0]:6.2f} to {r['wilson95'][1]:4.2f} "
        f"{100 * r['held'] / max(r['ticks'], 1):7.1f} {r['seam']:6.3f}"
        for r in rows
    ]


def plot(rows: Sequence[dict[str, Any]]) -> bytes:
    """Success with its interval over the delay."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    lines = {
        "overlapped": (True, "raised", "#20639b", "-"),
        "holding while deciding": (False, "raised", "#c0602a", "-"),
        "overlapped, default age limit": (True, "default", "#20639b", ":"),
    }
    for offset, (label, (overlap, limit, colour, style)) in enumerate(lines.items()):
        chosen = [r for r in rows if (r["overlap"], r["age_limit"]) == (overlap, limit)]
        x = np.array([r["delay_ms"] for r in chosen]) + 2.0 * (offset - 1)
        y = np.array([r["success"]["k"] / r["success"]["n"] for r in chosen])
        low, high = np.array([r["wilson95"] for r in chosen]).T
        axes.errorbar(
            x, 100 * y, 100 * np.stack([y - low, high - y]), color=colour, ls=style, marker="o", ms=4, label=label
        )
    axes.set_xlabel("added delay of every answer (ms)")
    axes.set_ylabel("success (%), 95 % Wilson interval")
    axes.set_ylim(0, 102)
    axes.legend(fontsize=8)
    return png_bytes(figure)
