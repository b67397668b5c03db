"""Which checkpoint of a run counts: the one that solves most validation seeds, scored as training goes along.

`out/candidates/step-N` holds the policy of each of them, `out/candidates/scores.jsonl` what it solved. Test seeds have
no part in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from s2robot.pipeline.checkpoint import choose_checkpoint, save_checkpoint
from s2robot.pipeline.rollout import RolloutPool, rollout
from s2robot.policies.agent import Agent
from s2robot.progress import progress
from s2robot.storage import append_line, cut_torn_line, read_json_lines

CANDIDATES, SCORES = "candidates", "scores.jsonl"


class Candidates:
    """The steps of a run in `out` at which its policy is rolled out. `run` is the run's fingerprint: what another one
    scored in this folder does not count.
    """

    def __init__(self, out: Path, steps: list[int], seeds: range, run: str) -> None:
        self.folder, self.steps, self.seeds, self.run = out / CANDIDATES, steps, seeds, run

    def scores(self) -> dict[int, int]:
        """Step -> validation seeds solved, of those that were scored."""
        path = self.folder / SCORES
        if not path.exists():
            return {}
        cut_torn_line(path)  # a kill may tear the last line; its step is scored again
        return {line["step"]: line["solved"] for line in read_json_lines(path) if line.get("run") == self.run}

    def due(self, step: int) -> bool:
        """Whether the policy at `step` is one to roll out and was not yet."""
        return step in self.steps and step not in self.scores()

    def score(
        self, step: int, agent: Agent, pool: RolloutPool, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]
    ) -> float:
        """Keep the policy of `step`, roll it out on every seed and note how many it solved; returns the share."""
        save_checkpoint(self.folder, step, {"policy": tensors}, manifest, keep=len(self.steps))
        label = f"rollouts at step {step}"
        solved = sum(r.success for r in progress(rollout(pool, agent, self.seeds), len(self.seeds), label, "episode"))
        line = {"step": step, "solved": solved, "seeds": len(self.seeds), "run": self.run}
        append_line(self.folder / SCORES, json.dumps(line))
        return solved / len(self.seeds)

    def choose(self, out: Path) -> None:
        """Note that the step whose policy solved most counts, the latest among equals. Nothing to do without steps."""
        if self.steps:
            scores = self.scores()
            best = max(self.steps, key=lambda step: (scores[step], step))
            choose_checkpoint(out, self.folder / f"step-{best:08d}")
