"""report.html: one file with pictures and clips inside, readable on a phone, in light and dark, without a network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from s2robot.pipeline.report import tables


@dataclass(frozen=True)
class Plot:
    """One figure twice, for light and dark pages."""

    caption: str
    file_name: str
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Clip:
    """One mp4 beside the page; `data` is None when it is too large to be carried inside."""

    arm: str
    file_name: str
    data: bytes | None


def render_html(
    report: Mapping[str, Any], plots: Mapping[str, Sequence[Plot]], clips: Mapping[str, Sequence[Clip]]
) -> str:
    """The whole page. `plots` and `clips` are by task; both may lack one."""
    tasks = [
        {
            "heading": tables.task_heading(name, task),
            "verdicts": tables.verdicts(task),
            "tables": tables.task_tables(task),
            "plots": plots.get(name, ()),
            "clips": clips.get(name, ()),
        }
        for name, task in report["tasks"].items()
    ]
    return _template().render(
        title=tables.title(report),
        match=tables.match_sentence(report),
        report=report,
        tasks=tasks,
        notes=tables.notes(report),
        stages=tables.stage_table(report),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("s2robot.pipeline.report", ""),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    return environment.get_template("report.html.j2")
