"""The catalogue of probes: what each asks of the tokens, of which frames, and how a number comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from s2robot.pipeline.probe.dense import depth, mean_iou, segmentation
from s2robot.pipeline.probe.grid import instances, joints, mean_balanced, position, presence
from s2robot.pipeline.probe.heads import Training
from s2robot.pipeline.probe.objects import contact, kind, orientation, size
from s2robot.pipeline.probe.scores import Frames, Tokens, balanced, mean


@dataclass(frozen=True)
class Probe:
    """One question. `source` says which frames answer it: a task's or random scenes. `heads` yields, per kind of head,
    statistics (v, ...) of the held-out frames that sum over frames; `reduce` turns such a sum into the number.
    """

    name: str
    unit: str
    lower_is_better: bool
    source: str
    heads: Callable[[Tokens, Mapping[str, np.ndarray], Training], Iterator[Frames]]
    reduce: Callable[[np.ndarray], float]


TASK, SCENES = "task", "scenes"
PROBES = {
    probe.name: probe
    for probe in (
        Probe("position", "mm", True, TASK, position, mean()),
        Probe("joints", "deg", True, TASK, joints, mean()),
        Probe("presence", "balanced %", False, SCENES, presence, mean_balanced),
        Probe("depth", "AbsRel %", True, SCENES, depth, mean(100)),
        Probe("segmentation", "mIoU %", False, SCENES, segmentation, mean_iou),
        Probe("kind", "accuracy %", False, SCENES, kind, mean(100)),
        Probe("size", "relative %", True, SCENES, size, mean(100)),
        Probe("orientation", "deg", True, SCENES, orientation, mean()),
        Probe("contact", "balanced %", False, SCENES, contact, balanced),
        Probe("instances", "nats", True, SCENES, instances, mean()),
    )
}
