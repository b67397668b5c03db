"""All that a probing run finds, as files and in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2robot.pipeline.probe.curves import Kept, curve_plot
from s2robot.pipeline.probe.reconstruct import Reconstruction
from s2robot.pipeline.probe.run import ProbeConfig, Row, run_probes, run_reconstructions
from s2robot.pipeline.probe.table import Correlation, as_text, correlate, plot, reconstructions_as_text, to_json
from s2robot.storage import write_atomic, write_json


@dataclass(frozen=True)
class ProbeResult:
    """`kept` are the weights along a pre-training that the encoders were, by name; `correlations` are None where no
    report was given.
    """

    rows: list[Row]
    reconstructions: list[Reconstruction]
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
        if self.correlations is not None:
            write_json(out / "correlation.json", [vars(line) for line in self.correlations])

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield as_text(self.rows)
        if self.reconstructions:
            yield "\n" + reconstructions_as_text(self.reconstructions)
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


def probe(config: ProbeConfig, kept: Mapping[str, Kept], report: Mapping[str, Any] | None) -> ProbeResult:
    """Ask everything. Resumable; `report` is one of `s2robot compare`, whose success rates probes are held against."""
    rows = run_probes(config)
    correlations = None if report is None else correlate(rows, report)
    return ProbeResult(rows, run_reconstructions(config), kept, correlations)
