"""Probes of the whole grid, a frame at a time: where the named object is, how the arm stands, what is in view, which
frame this is.

Dims: f frames, v held-out frames, m goals, d targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from s2robot.pipeline.probe.heads import GridHead, Training, in_batches, ridge, train_head
from s2robot.pipeline.probe.objects import visible
from s2robot.pipeline.probe.scores import MIN_PIXELS, Frames, Tokens, balanced, sum_and_count

MEMORISED = 1000  # frames, where there are as many


def position(data: Tokens, labels: Mapping[str, np.ndarray], training: Training) -> Iterator[Frames]:
    """Distance (mm) of the predicted from the true place on the table of the object that the goal names.

    Of objects with at least MIN_PIXELS in view: what the arm hides can only be guessed, and those guesses would be half
    of the mean. Heads "... + hidden" count the hidden ones too.
    """
    places = torch.from_numpy(labels["goal_xy_m"]).float() * 10  # decimetres: about unit scale
    shown = torch.from_numpy(labels["goal_px"][-data.held_out :] >= MIN_PIXELS)
    for name, guess in _grid(data, places, training):
        errors = 100 * (guess - places[-data.held_out :]).norm(dim=-1)
        yield name, torch.stack([(errors * shown).sum(1), shown.sum(1)], dim=1).double().numpy()
        yield f"{name} + hidden", sum_and_count(errors)


def joints(data: Tokens, labels: Mapping[str, np.ndarray], training: Training) -> Iterator[Frames]:
    """Mean absolute error (degrees) over the arm's joint angles."""
    angles = torch.from_numpy(labels["joints_rad"]).float()
    for name, guess in _grid(data, angles.unsqueeze(1), training):
        yield name, sum_and_count((guess[:, 0] - angles[-data.held_out :]).abs().rad2deg())


def presence(data: Tokens, labels: Mapping[str, np.ndarray], training: Training) -> Iterator[Frames]:
    """Balanced accuracy (%) of saying, for every kind of object, whether the frame shows one; the mean over kinds."""
    kinds = F.one_hot(torch.from_numpy(labels["kind"]).long())
    shown = (kinds * torch.from_numpy(visible(labels)).unsqueeze(-1)).amax(1)  # (f, kinds)
    share = shown[: -data.held_out].float().mean(0)
    for name, guess in _grid(data, shown.float().unsqueeze(1), training):
        said = (guess[:, 0] > share).long()  # rare kinds seldom come near 1
        yield name, F.one_hot(2 * shown[-data.held_out :] + said, 4).double().numpy()


def mean_balanced(total: np.ndarray) -> float:
    """From counts per kind of (absent, present) x (said absent, said present), over kinds that are both at times."""
    both = (total[:, :2].sum(1) > 0) & (total[:, 2:].sum(1) > 0)
    return float(np.mean([balanced(kind) for kind in total[both]]))


def _grid(
    data: Tokens, targets: Float[Tensor, "f m d"], training: Training
) -> Iterator[tuple[str, Float[Tensor, "v m d"]]]:
    """(head, guesses for the held-out frames): ridge for all goals at once, and a small head that is told the goal."""
    goals = targets.shape[1]
    train = targets[: -data.held_out]
    mean, std = data.statistics
    yield "ridge", ridge(*data.kernels, train.flatten(1)).view(-1, *targets.shape[1:])
    torch.manual_seed(training.seed)
    centre, spread = train.flatten(0, 1).mean(0), train.flatten(0, 1).std(0).clamp(min=1e-6)
    head = GridHead(data.grid, data.tokens.shape[-1], goals if goals > 1 else 0, targets.shape[-1])
    head.standardise.mean.copy_(mean)
    head.standardise.std.copy_(std)
    one_hot = torch.eye(goals) if goals > 1 else torch.zeros(1, 0)

    def loss(index: Tensor) -> Tensor:
        goal = torch.randint(goals, (len(index),))  # the loop seeds every step
        guess, true = head(data.train[index], one_hot[goal]), (train[index, goal] - centre) / spread
        return F.smooth_l1_loss(guess, true, beta=0.1)  # nearly L1: hidden objects are outliers and must not rule

    best: Any = train_head(head, loss, len(train), training)

    def every_goal(tokens: Tensor) -> Tensor:
        return torch.stack([best(tokens, goal.expand(len(tokens), -1)) for goal in one_hot], dim=1)

    yield "small", in_batches(every_goal, data.test) * spread + centre


def instances(data: Tokens, labels: Mapping[str, np.ndarray], training: Training) -> Iterator[Frames]:
    """Cross-entropy (nats) of telling frames apart, each a class of its own: how far the mean token of one frame lies
    from all others', to a linear head. Scored on the memorised frames themselves; ln(frames) is a guess. The paper's
    test of capacity trains the backbone too: `capacity.py`.
    """
    tokens = data.train[:MEMORISED].float().mean(1)
    inputs = (tokens - tokens.mean(0)) / tokens.std(0).clamp(min=1e-3)
    torch.manual_seed(training.seed)
    head = torch.nn.Linear(inputs.shape[1], len(inputs))
    best: Any = train_head(head, lambda index: F.cross_entropy(head(inputs[index]), index), len(inputs), training)
    with torch.no_grad():
        errors = F.cross_entropy(best(inputs), torch.arange(len(inputs)), reduction="none")
    yield "linear", sum_and_count(errors.unsqueeze(1))
