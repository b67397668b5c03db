"""All that a probing run finds, as files and in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from s2robot.errors import S2RobotError
from s2robot.pipeline.probe.capacity import Capacity, run_capacities
from s2robot.pipeline.probe.curves import Kept, curve_plot
from s2robot.pipeline.probe.reconstruct import Reconstruction
from s2robot.pipeline.probe.run import ProbeConfig, Row, asked, run_probes, run_reconstructions
from s2robot.pipeline.probe.table import (
    Correlation,
    as_text,
    capacities_as_text,
    correlate,
    plot,
    reconstructions_as_text,
    to_json,
)
from s2robot.storage import read_json, write_atomic, write_json
from s2robot.types import require_equal


@dataclass(frozen=True)
class ProbeResult:
    """`kept` are the weights along a pre-training that the encoders were, by name; `correlations` are None where no
    report was given.
    """

    rows: list[Row]
    reconstructions: list[Reconstruction]
    capacities: list[Capacity]
    kept: Mapping[str, Kept]
    correlations: list[Correlation] | None

    def write(self, out: Path) -> None:
        """Tables as JSON and plots, into `out`."""
        write_json(out / "probe.json", to_json(self.rows))
        write_atomic(out / "probe.png", plot(self.rows))
        if self.kept:
            write_json(out / "curves.json", [{**line, **self._place(line)} for line in to_json(self.rows)])
            write_atomic(out / "curves.png", curve_plot(self.rows, self.kept))
        if self.reconstructions:
            write_json(out / "reconstruction.json", [vars(line) for line in self.reconstructions])
        if self.capacities:
            write_json(out / "capacity.json", [vars(line) for line in self.capacities])
        if self.correlations is not None:
            write_json(out / "correlation.json", [vars(line) for line in self.correlations])

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield as_text(self.rows)
        if self.reconstructions:
            yield "\n" + reconstructions_as_text(self.reconstructions)
        if self.capacities:
            yield "\n" + capacities_as_text(self.capacities)
        if self.correlations is None:
            return
        yield "\nrank correlation with success in rollouts (+1: the better probe wins), over encoders"
        if not self.correlations:
            yield "none: no task's arms have the names and the weights of three of the probed encoders"
        for line in self.correlations:
            interval = "no interval" if line.ci95 is None else f"95 % {line.ci95[0]:+.2f} to {line.ci95[1]:+.2f}"
            yield f"{line.task}: {line.source} {line.probe} ({line.head}): {line.rho:+.2f}, n = {line.n}, {interval}"

    def _place(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Where on a curve a line of the table stands; nowhere for the constant predictor."""
        weights = self.kept.get(line["encoder"])
        return {} if weights is None else {"run": weights.name, "samples": weights.samples, "tmac": weights.tmac}


def probe(
    config: ProbeConfig, kept: Mapping[str, Kept], report: Mapping[str, Any] | None, beside: Sequence[Row] = ()
) -> ProbeResult:
    """Ask everything. Resumable; `report` is one of `s2robot compare`, whose success rates probes are held against,
    `beside` are rows of other runs, which join these.

    Raises MismatchError as `join_rows` does, where it can be known before anything is asked.
    """
    join_rows(beside, (), asked(config))
    rows = join_rows(beside, run_probes(config), asked(config))
    correlations = None if report is None else correlate(rows, report)
    return ProbeResult(rows, run_reconstructions(config), run_capacities(config), kept, correlations)


def read_rows(path: Path) -> list[Row]:
    """A `probe.json` that another run wrote. Raises S2RobotError where it is none."""
    if not path.is_file():
        raise S2RobotError(f"there is no {path}; give the probe.json of a finished `s2robot probe`")
    lines: Any = read_json(path)
    names = {field.name for field in fields(Row)}
    if not isinstance(lines, list) or any(not isinstance(line, dict) or line.keys() != names for line in lines):
        raise S2RobotError(f"{path} is no probe.json of this version: its rows have {', '.join(sorted(names))}")
    return [Row(**{**line, "ci95": tuple(line["ci95"])}) for line in lines]


def join_rows(others: Sequence[Row], own: Sequence[Row], how: Mapping[tuple[str, str], str]) -> list[Row]:
    """Rows of several runs as those of one; what both have is taken from `own`. `how` is what (source, probe) have to
    say as `asked`.

    Raises MismatchError where a probe was asked on other frames or an encoder of one name had other weights.
    """
    remedy = "join runs of the same frames, split, steps and weights"
    known = dict(how)
    weights: dict[str, str] = {}
    for row in (*own, *others):
        theirs = known.setdefault((row.source, row.probe), row.asked)
        require_equal(f"how {row.probe} on {row.source} was asked", theirs, row.asked, remedy)
        require_equal(
            f"the weights of {row.encoder}", weights.setdefault(row.encoder, row.weights), row.weights, remedy
        )
    joined = {(row.source, row.probe, row.head, row.encoder): row for row in (*others, *own)}
    return list(joined.values())
