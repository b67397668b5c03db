"""The probes: what each asks of the tokens, how its heads read them, and how wrong they are on held-out frames.

A head's result is an array of statistics per held-out frame that sum over frames; a function turns the sum into the
reported number. That is what a bootstrap over frames needs.

Dims: f frames, v held-out frames, n tokens, c channels, m goals, u objects, k cells per side, s statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from s2robot.pipeline.probe.heads import (
    CELLS,
    DenseHead,
    GridHead,
    Training,
    in_batches,
    kernels,
    mlp,
    ridge,
    sample_at,
    train_head,
)

CLASSES = ("background", "table", "robot", "object")
FIRST_OBJECT = 3
MIN_PIXELS = 12  # of an object that a probe asks about
MAX_DEPTH_M = 3.0
MEMORISED = 1000  # frames, where there are as many


Frames = tuple[str, Float64[np.ndarray, "v ..."]]  # a head's name, and statistics per held-out frame


@dataclass(frozen=True)
class Tokens:
    """One encoder's tokens of all frames, in half precision; the last `held_out` frames are for scoring alone."""

    tokens: Float[Tensor, "f n c"]
    grid: tuple[int, int]
    held_out: int

    @property
    def train(self) -> Float[Tensor, "f n c"]:
        """Of the frames that heads may learn from."""
        return self.tokens[: -self.held_out]

    @property
    def test(self) -> Float[Tensor, "v n c"]:
        """Of the held-out frames."""
        return self.tokens[-self.held_out :]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel over the training tokens."""
        sample = self.train[:: max(1, len(self.train) // 1000)].float().flatten(0, 1)
        return sample.mean(0), sample.std(0).clamp(min=1e-3)


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


def _mean(scale: float = 1.0) -> Callable[[np.ndarray], float]:
    """From (sum of errors, count)."""
    return lambda total: scale * float(total[0] / max(total[1], 1))


def _sum_and_count(errors: Float[Tensor, "v e"]) -> np.ndarray:
    """(v, 2) of errors that every frame has as many of."""
    return torch.stack([errors.sum(1), torch.full((len(errors),), float(errors.shape[1]))], dim=1).double().numpy()


# The whole grid, a frame at a time.


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
        yield f"{name} + hidden", _sum_and_count(errors)


def joints(data: Tokens, labels: Mapping[str, np.ndarray], training: Training) -> Iterator[Frames]:
    """Mean absolute error (degrees) over the arm's joint angles."""
    angles = torch.from_numpy(labels["joints_rad"]).float()
    for name, guess in _grid(data, angles.unsqueeze(1), training):
        yield name, _sum_and_count((guess[:, 0] - angles[-data.held_out :]).abs().rad2deg())


def presence(data: Tokens, labels: Mapping[str, np.ndarray], training: Training) -> Iterator[Frames]:
    """Balanced accuracy (%) of saying, for every kind of object, whether the frame shows one; the mean over kinds."""
    kinds = F.one_hot(torch.from_numpy(labels["kind"]).long())
    shown = (kinds * torch.from_numpy(visible(labels)).unsqueeze(-1)).amax(1)  # (f, kinds)
    share = shown[: -data.held_out].float().mean(0)
    for name, guess in _grid(data, shown.float().unsqueeze(1), training):
        said = (guess[:, 0] > share).long()  # rare kinds seldom come near 1
        yield name, F.one_hot(2 * shown[-data.held_out :] + said, 4).double().numpy()


def _mean_balanced(total: np.ndarray) -> float:
    """From counts per kind of (absent, present) x (said absent, said present), over kinds that are both at times."""
    both = (total[:, :2].sum(1) > 0) & (total[:, 2:].sum(1) > 0)
    return float(np.mean([_balanced(kind) for kind in total[both]]))


def _grid(
    data: Tokens, targets: Float[Tensor, "f m d"], training: Training
) -> Iterator[tuple[str, Float[Tensor, "v m d"]]]:
    """(head, guesses for the held-out frames): ridge for all goals at once, and a small head that is told the goal."""
    goals = targets.shape[1]
    train = targets[: -data.held_out]
    mean, std = data.statistics()

    kernel, cross = kernels(data.train, data.test, mean, std)
    yield "ridge", ridge(kernel, cross, train.flatten(1)).view(-1, *targets.shape[1:])
    torch.manual_seed(training.seed)
    centre, spread = train.flatten(0, 1).mean(0), train.flatten(0, 1).std(0).clamp(min=1e-6)
    head = GridHead(data.grid, data.tokens.shape[-1], goals if goals > 1 else 0, targets.shape[-1])
    head.pool.mean.copy_(mean)
    head.pool.std.copy_(std)
    one_hot = torch.eye(goals) if goals > 1 else torch.zeros(1, 0)

    def loss(index: Tensor) -> Tensor:
        goal = torch.randint(goals, (len(index),))  # the loop seeds every step
        return F.smooth_l1_loss(head(data.train[index], one_hot[goal]), (train[index, goal] - centre) / spread)

    best: Any = train_head(head, loss, len(train), training)

    def every_goal(tokens: Tensor) -> Tensor:
        return torch.stack([best(tokens, goal.expand(len(tokens), -1)) for goal in one_hot], dim=1)

    yield "small", in_batches(every_goal, data.test) * spread + centre


# A class for every frame.


def capacity(data: Tokens, labels: Mapping[str, np.ndarray], training: Training) -> Iterator[Frames]:
    """Cross-entropy (nats) of memorising frames, each a class of its own (arXiv 2403.13043, section 3.3, where the
    backbone is trained too): how far the mean token of one frame lies from all others', to a linear head. Scored on
    the memorised frames themselves; ln(frames) is a guess.
    """
    tokens = data.train[:MEMORISED].float().mean(1)
    inputs = (tokens - tokens.mean(0)) / tokens.std(0).clamp(min=1e-3)
    torch.manual_seed(training.seed)
    head = torch.nn.Linear(inputs.shape[1], len(inputs))
    best: Any = train_head(head, lambda index: F.cross_entropy(head(inputs[index]), index), len(inputs), training)
    with torch.no_grad():
        errors = F.cross_entropy(best(inputs), torch.arange(len(inputs)), reduction="none")
    yield "linear", _sum_and_count(errors.unsqueeze(1))


# A value for every cell of the image.


def segmentation(data: Tokens, labels: Mapping[str, np.ndarray], training: Training) -> Iterator[Frames]:
    """Mean intersection over union (%) of background, table, robot and object; objects win the cells they share."""
    cells = F.adaptive_max_pool2d(torch.from_numpy(labels["code"]).float().unsqueeze(1), CELLS)[:, 0]
    target = cells.long().clamp(max=FIRST_OBJECT)
    weight = torch.tensor([1.0, 1.0, 1.5, 3.0])  # objects fill few of the cells

    def loss(logits: Tensor, index: Tensor) -> Tensor:
        return F.cross_entropy(logits, target[index], weight)

    def frames(logits: Tensor) -> np.ndarray:
        guess, true = logits.argmax(1), target[-data.held_out :]
        pairs = (true * len(CLASSES) + guess).flatten(1)
        return F.one_hot(pairs, len(CLASSES) ** 2).sum(1).view(-1, len(CLASSES), len(CLASSES)).double().numpy()

    for name, logits in _dense(data, len(CLASSES), loss, training):
        yield name, frames(logits)


def _mean_iou(confusion: np.ndarray) -> float:
    hit = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return 100 * float(np.mean(hit[union > 0] / union[union > 0]))


def depth(data: Tokens, labels: Mapping[str, np.ndarray], training: Training) -> Iterator[Frames]:
    """Absolute relative error (%) of depth along the optical axis, up to MAX_DEPTH_M."""
    metres = torch.from_numpy(labels["depth_m"].astype(np.float32)).clamp(max=MAX_DEPTH_M)
    target = F.adaptive_avg_pool2d(metres.unsqueeze(1), CELLS).log()

    def loss(guess: Tensor, index: Tensor) -> Tensor:
        return F.smooth_l1_loss(guess, target[index], beta=0.1)

    for name, guess in _dense(data, 1, loss, training):
        yield name, _sum_and_count(((guess - target[-data.held_out :]).exp() - 1).abs().flatten(1))


def _dense(
    data: Tokens, outputs: int, loss: Callable[[Tensor, Tensor], Tensor], training: Training
) -> Iterator[tuple[str, Tensor]]:
    """(head, its maps of the held-out frames) for a linear head and one with a hidden layer."""
    for name, hidden in (("linear", 0), ("small", 256)):
        torch.manual_seed(training.seed)
        head = DenseHead(data.grid, *data.statistics(), outputs, hidden)

        def step(index: Tensor, head: DenseHead = head) -> Tensor:
            return loss(head(data.train[index]), index)

        best = train_head(head, step, len(data.train), training)
        yield name, in_batches(best, data.test)


# A value for every visible object, read where its centre is.


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

    def loss(guess: Tensor, true: Tensor) -> Tensor:
        return F.smooth_l1_loss(guess[:, 0], true, beta=0.1)

    def wrong(guess: Tensor, true: Tensor) -> Tensor:
        return ((guess[:, 0] - true).exp() - 1).abs()

    yield from _object_scores(data, labels, target, target > np.log(2e-3), 1, loss, wrong, training)


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


def _balanced(total: np.ndarray) -> float:
    """From the counts of (on the table, floating) x (said to be on it, said to float)."""
    on_table, floating = total[:2].sum(), total[2:].sum()
    return 50 * float(total[0] / max(on_table, 1) + total[3] / max(floating, 1))


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


TASK, SCENES = "task", "scenes"
PROBES = {
    probe.name: probe
    for probe in (
        Probe("position", "mm", True, TASK, position, _mean()),
        Probe("joints", "deg", True, TASK, joints, _mean()),
        Probe("presence", "balanced %", False, SCENES, presence, _mean_balanced),
        Probe("depth", "AbsRel %", True, SCENES, depth, _mean(100)),
        Probe("segmentation", "mIoU %", False, SCENES, segmentation, _mean_iou),
        Probe("kind", "accuracy %", False, SCENES, kind, _mean(100)),
        Probe("size", "relative %", True, SCENES, size, _mean(100)),
        Probe("orientation", "deg", True, SCENES, orientation, _mean()),
        Probe("contact", "balanced %", False, SCENES, contact, _balanced),
        Probe("capacity", "nats", True, SCENES, capacity, _mean()),
    )
}
