"""Probes with a value for every visible object, read where its centre is.

Dims: f frames, v held-out frames, n objects of a frame, u objects of all frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s2robot.pipeline.probe.dense import FIRST_OBJECT
from s2robot.pipeline.probe.heads import Training, mlp, sample_at, train_head
from s2robot.pipeline.probe.scores import MIN_PIXELS, Frames, Tokens


def kind(data: Tokens, labels: Mapping[str, np.ndarray], training: Training) -> Iterator[Frames]:
    """Accuracy (%) of telling the kinds of objects apart."""
    target = torch.from_numpy(labels["kind"]).long()

    def right(guess: Tensor, true: Tensor) -> Tensor:
        return (guess.argmax(1) == true).float()

    kinds = int(target.max()) + 1
    yield from _object_scores(data, labels, target, target >= 0, kinds, F.cross_entropy, right, training)


def size(data: Tokens, labels: Mapping[str, np.ndarray], training: Training) -> Iterator[Frames]:
    """Relative error (%) of an object's longest extent; nothing in pre-training says how large it is."""
    target = torch.from_numpy(labels["size_m"]).clamp(min=1e-3).log()
    asked = target > np.log(2e-3)
    train = slice(len(data.train))
    target = target - target[train][asked[train]].mean()  # heads begin at 0: relative errors do not mind the shift

    def loss(guess: Tensor, true: Tensor) -> Tensor:
        return F.smooth_l1_loss(guess[:, 0], true, beta=0.1)

    def wrong(guess: Tensor, true: Tensor) -> Tensor:
        return ((guess[:, 0] - true).exp() - 1).abs()

    yield from _object_scores(data, labels, target, asked, 1, loss, wrong, training)


def orientation(data: Tokens, labels: Mapping[str, np.ndarray], training: Training) -> Iterator[Frames]:
    """Error (degrees) of the yaw of boxes that stand on the table, modulo a quarter turn; a guess gives 22.5."""
    yaw = torch.from_numpy(labels["yaw_rad"])
    target = torch.stack([(4 * yaw).cos(), (4 * yaw).sin()], dim=-1)

    def wrong(guess: Tensor, true: Tensor) -> Tensor:
        angle = torch.atan2(guess[:, 1], guess[:, 0]) - torch.atan2(true[:, 1], true[:, 0])
        return (torch.atan2(angle.sin(), angle.cos()).abs() / 4).rad2deg()

    yield from _object_scores(data, labels, target, ~yaw.isnan(), 2, F.smooth_l1_loss, wrong, training)


def contact(data: Tokens, labels: Mapping[str, np.ndarray], training: Training) -> Iterator[Frames]:
    """Balanced accuracy (%) of telling objects that touch the table from those that float."""
    target = torch.from_numpy(labels["lifted"]).long()
    rare = torch.tensor([1.0, 5.0])  # 15 % float

    def loss(guess: Tensor, true: Tensor) -> Tensor:
        return F.cross_entropy(guess, true, rare)

    def pairs(guess: Tensor, true: Tensor) -> Tensor:
        return F.one_hot(2 * true + guess.argmax(1), 4).float()

    yield from _object_scores(data, labels, target, target >= 0, 2, loss, pairs, training)


def _object_scores(
    data: Tokens,
    labels: Mapping[str, np.ndarray],
    target: Tensor,
    asked: Tensor,
    outputs: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    wrong: Callable[[Tensor, Tensor], Tensor],
    training: Training,
) -> Iterator[Frames]:
    """Heads on what stands in the tokens at the centre of every visible object that `asked` (f, n) selects."""
    frame, which = torch.nonzero(asked & torch.from_numpy(visible(labels)), as_tuple=True)
    side = labels["code"].shape[-1]
    place = torch.from_numpy(labels["centre_px"])[frame, which] / side
    inputs = sample_at(data.tokens, data.grid, frame, place)
    true, first = target[frame, which], len(data.train)
    train, test = frame < first, frame >= first
    mean, std = inputs[train].mean(0), inputs[train].std(0).clamp(min=1e-3)
    inputs = (inputs - mean) / std
    for name in ("linear", "small"):
        torch.manual_seed(training.seed)
        head = torch.nn.Linear(inputs.shape[1], outputs) if name == "linear" else mlp(inputs.shape[1], outputs)
        seen, answers = inputs[train], true[train]

        def step(index: Tensor, head: Any = head, seen: Tensor = seen, answers: Tensor = answers) -> Tensor:
            return loss(head(seen[index]), answers[index])

        best: Any = train_head(head, step, len(seen), training)
        with torch.no_grad():
            errors = wrong(best(inputs[test]), true[test])
        rows = frame[test] - first
        if errors.ndim == 1:
            errors = torch.stack([errors, torch.ones_like(errors)], dim=1)
        totals = torch.zeros(data.held_out, errors.shape[1], dtype=torch.float64)
        yield name, totals.index_add_(0, rows, errors.double()).numpy()


def visible(labels: Mapping[str, np.ndarray]) -> np.ndarray:
    """(f, n): objects with at least MIN_PIXELS in view and their centre inside the frame."""
    code, centre = labels["code"], labels["centre_px"]
    objects = centre.shape[1]
    counts = np.stack([np.bincount(frame.ravel(), minlength=FIRST_OBJECT + objects) for frame in code])
    with np.errstate(invalid="ignore"):
        inside = ((centre >= 0) & (centre < code.shape[-1])).all(-1)
    return inside & (counts[:, FIRST_OBJECT : FIRST_OBJECT + objects] >= MIN_PIXELS)
