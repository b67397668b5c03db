"""A report as files: report.json, table.json, report.md, report.html, plots and clips in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2robot.errors import S2RobotError, unknown_name
from s2robot.pipeline.report import plots
from s2robot.pipeline.report.html import Clip, Plot, render_html
from s2robot.pipeline.report.records import run_rows
from s2robot.pipeline.report.tables import to_document
from s2robot.pipeline.report.videos import MAX_BYTES
from s2robot.storage import write_atomic, write_json

Videos = Mapping[str, Mapping[str, Path]]  # task -> arm -> mp4


def write_report(report: Mapping[str, Any], folder: Path, videos: Videos | None = None) -> Path:
    """Write every form of the report into `folder`, each file atomically, report.json last; the path of report.html.

    `videos[task][arm]` are finished clips; they are copied to `<task>-<arm>.mp4` and, up to 1 MB each, into the page.
    No file carries a time of writing: the same report gives the same bytes.
    Raises S2RobotError for a clip of an unknown task or arm, or one that does not exist.
    """
    videos = videos or {}
    clips = _clips(report, videos)
    drawn = {name: _plots(name, task) for name, task in report["tasks"].items()}
    for task_plots in drawn.values():
        for plot in task_plots:
            write_atomic(folder / plot.file_name, plot.light)
    for task, by_arm in clips.items():
        for clip, data in by_arm:
            if videos[task][clip.arm].resolve() != (folder / clip.file_name).resolve():
                write_atomic(folder / clip.file_name, data)
    page = {task: [clip for clip, _ in by_arm] for task, by_arm in clips.items()}
    shown = {
        name: [(plot.caption, plot.file_name) for plot in drawn[name]]
        + [(f"{clip.arm}: rollouts", clip.file_name) for clip in page.get(name, ())]
        for name in report["tasks"]
    }
    write_atomic(folder / "report.md", to_document(report, shown).encode())
    write_atomic(folder / "report.html", render_html(report, drawn, page).encode())
    write_json(folder / "table.json", run_rows(report))
    write_json(folder / "report.json", report)
    return folder / "report.html"


def _plots(name: str, task: Mapping[str, Any]) -> list[Plot]:
    figures = (
        ("success-gmac", plots.success_against_gmac, "Success against compute; arms of equal cost stand side by side"),
        ("success-latency", plots.success_against_latency, "Success against latency"),
        ("learning-curves", plots.learning_curves, "Learning curves: mean and range over training seeds"),
    )
    drawn = []
    for stem, draw, caption in figures:
        light, dark = draw(task, name, plots.LIGHT), draw(task, name, plots.DARK)
        if light is not None and dark is not None:
            drawn.append(Plot(f"{name}: {caption}", f"{name}-{stem}.png", light, dark))
    return drawn


def _clips(report: Mapping[str, Any], videos: Videos) -> dict[str, list[tuple[Clip, bytes]]]:
    """The clips of each task in the order of its arms, with their bytes."""
    clips: dict[str, list[tuple[Clip, bytes]]] = {}
    for task, by_arm in videos.items():
        if task not in report["tasks"]:
            raise unknown_name("task of a clip", task, report["tasks"])
        arms = [arm["name"] for arm in report["tasks"][task]["arms"]]
        for arm in by_arm:
            if arm not in arms:
                raise unknown_name(f"arm of a clip on {task}", arm, arms)
        clips[task] = []
        for arm in [arm for arm in arms if arm in by_arm]:
            try:
                data = by_arm[arm].read_bytes()
            except OSError as error:
                raise S2RobotError(f"clip {by_arm[arm]} cannot be read ({error.strerror}); record it again") from error
            clip = Clip(arm, f"{task}-{arm}.mp4", data if len(data) <= MAX_BYTES else None)
            clips[task].append((clip, data))
    return clips
