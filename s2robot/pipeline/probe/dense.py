"""Probes with a value for every cell of the image.

Dims: f frames, v held-out frames, k cells per side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s2robot.pipeline.probe.heads import CELLS, DenseHead, Training, in_batches, train_head
from s2robot.pipeline.probe.scores import Frames, Tokens, sum_and_count

CLASSES = ("background", "table", "robot", "object")
FIRST_OBJECT = 3  # code of the first object in a scene's label image
MAX_DEPTH_M = 3.0
BATCH_SHARE = 2  # a frame answers in every cell, so half of the usual batch's frames is plenty


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


def mean_iou(confusion: np.ndarray) -> float:
    hit = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return 100 * float(np.mean(hit[union > 0] / union[union > 0]))


def depth(data: Tokens, labels: Mapping[str, np.ndarray], training: Training) -> Iterator[Frames]:
    """Absolute relative error (%) of depth along the optical axis, up to MAX_DEPTH_M."""
    metres = torch.from_numpy(labels["depth_m"].astype(np.float32)).clamp(max=MAX_DEPTH_M)
    target = F.adaptive_avg_pool2d(metres.unsqueeze(1), CELLS).log()
    target = target - target[: len(data.train)].mean()  # heads begin at 0: relative errors do not mind the shift

    def loss(guess: Tensor, index: Tensor) -> Tensor:
        return F.smooth_l1_loss(guess, target[index], beta=0.1)

    for name, guess in _dense(data, 1, loss, training):
        yield name, sum_and_count(((guess - target[-data.held_out :]).exp() - 1).abs().flatten(1))


def _dense(
    data: Tokens, outputs: int, loss: Callable[[Tensor, Tensor], Tensor], training: Training
) -> Iterator[tuple[str, Tensor]]:
    """(head, its maps of the held-out frames) for a linear head and one with a hidden layer."""
    training = replace(training, batch=max(1, training.batch // BATCH_SHARE))
    for name, hidden in (("linear", 0), ("small", 256)):
        torch.manual_seed(training.seed)
        head = DenseHead(data.grid, *data.statistics, outputs, hidden)

        def step(index: Tensor, head: DenseHead = head) -> Tensor:
            return loss(head(data.train[index]), index)

        best = train_head(head, step, len(data.train), training)
        yield name, in_batches(best, data.test)
