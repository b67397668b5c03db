"""The record of a training run: `curve.jsonl` always, TensorBoard beside it where it is installed.

A resumed run forgets what a killed one logged beyond the checkpoint that it goes on from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2robot.progress import say
from s2robot.storage import append_line, cut_torn_line, read_json_lines, write_atomic

FILE = "curve.jsonl"


class Curve:
    """One line per point: step, losses, learning rate, gradient norm, speed. Use as a context manager.

    `write=False` is for a process that only takes part: it leaves the files alone.
    """

    def __init__(self, out: Path, step: int, tensorboard: bool, write: bool = True) -> None:
        self.path = out / FILE
        self._writer: Any = None
        if not write:
            return
        forget_after(self.path, step)
        if tensorboard:
            self._writer = _summary_writer(out / "tensorboard", step)

    def __enter__(self) -> Curve:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append one point."""
        append_line(self.path, json.dumps({"step": step, **values}))
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)


def read_curve(out: Path) -> list[dict[str, float]]:
    """Points in order of steps; each step once, its values from all lines that name it."""
    points: dict[int, dict[str, float]] = {}
    for point in read_json_lines(out / FILE):
        points.setdefault(point["step"], {}).update(point)
    return [points[step] for step in sorted(points)]


def forget_after(path: Path, step: int) -> None:
    """Drop what a killed run logged beyond the checkpoint that this one goes on from: it will be logged again."""
    if path.exists():
        cut_torn_line(path)  # a kill may tear the last line
        kept = [point for point in read_json_lines(path) if point["step"] <= step]
        write_atomic(path, "".join(json.dumps(point) + "\n" for point in kept).encode())


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say("TensorBoard is not installed; curves go to curve.jsonl alone (pip install tensorboard)")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
