"""`s2robot compare`: a whole experiment, from demonstrations to the verdict."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

HELP = "runs an experiment: demonstrations, features, policies, rollouts and the verdict"
VERBS: dict[str, str] = {}


def run(config: Any, verb: str) -> int | None:
    """Run what is missing, print the report and say where it lies."""
    from omegaconf import OmegaConf

    from s2robot.configs import listed
    from s2robot.pipeline.compare import Comparison
    from s2robot.pipeline.experiment import Experiment
    from s2robot.pipeline.report.tables import print_report

    experiment: Any = OmegaConf.to_container(config.experiment, resolve=True)
    beside = tuple(Path(report) for report in listed(config.beside))
    chosen = Experiment.from_config(experiment).only(listed(config.only))
    comparison = Comparison(chosen, Path(config.out), config.workers, config.device, beside)
    command = shlex.join(["s2robot", *sys.argv[1:]])
    print_report(comparison.run(command))
    print(f"report: {Path(config.out) / 'report.html'}")
    return None
