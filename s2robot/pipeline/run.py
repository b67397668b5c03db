"""A training run on disk: resumed from its newest intact checkpoint, saved as it goes, finished or not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s2robot.errors import MismatchError, S2RobotError, some
from s2robot.pipeline.checkpoint import (
    CHECKPOINTS,
    chosen_checkpoint,
    load_tensors,
    newest_checkpoint,
    open_checkpoint,
    save_checkpoint,
)
from s2robot.pipeline.fit import StepRecord, TrainState
from s2robot.progress import say
from s2robot.storage import write_json

FAILED = "failed_batch.json"


class Run:
    """What a run in `out` adds up between two points of its curve, and what it saves."""

    def __init__(self, out: Path, manifest: Mapping[str, Any], state: TrainState) -> None:
        self.out, self.manifest, self.state = out, manifest, state
        self._losses: list[Tensor] = []  # since the last point of the curve
        self._unchecked: list[tuple[StepRecord, Tensor]] = []  # steps with their losses over all processes
        self._steps = 0  # since the last point or since it was resumed
        self._waited_s = self._stepped_s = self._before_s = 0.0
        self._start_s = self._saved_s = time.perf_counter()

    def resume(self) -> None:
        """Restore the newest intact checkpoint, if there is one. Raises MismatchError when it is another run's, or of
        this one by another version of the code.
        """
        found = newest_checkpoint(self.out / CHECKPOINTS)
        if found is None:
            return
        path, manifest = found
        require_same_run(self.out, manifest["identity"], self.manifest["identity"])
        try:
            self.state.restore(load_tensors(path, "train_state"), manifest["step"])
        except RuntimeError as error:
            raise MismatchError(
                f"{path} does not fit the policy that its manifest describes: another version of the code saved it; go "
                "on with that one (see `versions` there), or give another out= folder or delete this one"
            ) from error
        self._before_s = float(manifest["train_s"])
        device = next(self.state.module.parameters()).device
        self._losses = list(torch.tensor(manifest["losses_since_point"], device=device))
        say(f"resuming {self.out} at step {self.state.step}")

    def note(self, record: StepRecord, loss: Tensor) -> None:
        """Take down one step and its loss over all processes."""
        self._losses.append(loss)
        self._unchecked.append((record, loss))
        self._steps += 1
        self._waited_s += record.data_s
        self._stepped_s += record.step_s

    def means(self, record: StepRecord) -> dict[str, float]:
        """Means since they were last asked for: loss, speed, and the share of time that the step waited for data."""
        values = {
            "train_loss": float(torch.stack(self._losses).mean()),
            "lr": record.lr,
            "grad_norm": float(record.grad_norm),
            "steps_s": self._steps / max(self._stepped_s, 1e-9),
            "data_wait": self._waited_s / max(self._stepped_s, 1e-9),
        }
        self._losses.clear()
        self._steps, self._waited_s, self._stepped_s = 0, 0.0, 0.0
        return values

    def require_finite(self, episodes: Callable[[int], list[str]]) -> None:
        """Raise S2RobotError where, since the last call, a loss or a gradient was no number: the weights are spoilt
        from that step on, so nothing is to be saved. The step's `episodes` are named in `failed_batch.json`.
        """
        steps, self._unchecked = self._unchecked, []
        values = torch.stack([torch.stack((loss, record.grad_norm.to(loss))) for record, loss in steps])
        bad = (~values.isfinite()).any(1).nonzero()
        if not len(bad):
            return
        (loss, norm), step = values[bad[0, 0]].tolist(), steps[bad[0, 0]][0].step
        drawn = episodes(step - 1)
        write_json(self.out / FAILED, {"step": step, "loss": str(loss), "grad_norm": str(norm), "episodes": drawn})
        found = newest_checkpoint(self.out / CHECKPOINTS)
        kept = f"the checkpoint of step {found[1]['step']} is kept" if found else "no checkpoint was saved yet"
        raise S2RobotError(
            f"the loss became {loss} and its gradient {norm} at step {step}, whose batch draws from {some(drawn)} "
            f"({self.out / FAILED} has all); {kept}; look for extreme values in these episodes or lower recipe.lr"
        )

    def save_is_due(self, every_s: float) -> bool:
        """Whether the last save is longer ago than that."""
        return time.perf_counter() - self._saved_s > every_s

    def save(self, finished: bool) -> Path:
        """Write policy and training state; returns the checkpoint."""
        self._saved_s = time.perf_counter()
        spent_s = self._before_s + self._saved_s - self._start_s
        progress = {"train_s": spent_s, "finished": finished, "losses_since_point": [float(x) for x in self._losses]}
        files = {"policy": self.state.best.state_dict(), "train_state": self.state.tensors()}
        return save_checkpoint(self.out / CHECKPOINTS, self.state.step, files, {**self.manifest, **progress})


def finished_run(out: Path, identity: Mapping[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that counts of a finished run in `out`, with the manifest of its last; None while it is not
    finished. Raises MismatchError when it is another run's.
    """
    found = newest_checkpoint(out / CHECKPOINTS)
    if found is None:
        return None
    _, manifest = found
    require_same_run(out, manifest["identity"], identity)
    if not manifest.get("finished") or (identity["recipe"]["rollouts"] and chosen_checkpoint(out) is None):
        return None
    return open_checkpoint(out)[0], manifest


def require_same_run(out: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise MismatchError, naming what differs, unless both identities are equal."""
    changed = sorted(key for key in ours if theirs.get(key) != ours[key])
    if changed:
        raise MismatchError(
            f"{out} holds a run with another {', '.join(changed)}; give another out= folder or delete that one"
        )
