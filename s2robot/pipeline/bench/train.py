"""`s2robot bench train`: steps on cached features beside steps that run the frozen encoder, as other libraries do.

Both take the same steps on the same batches from the same initial weights, taking turns in one process. The uncached
side gets every advantage: its frames are decoded, shifted and in memory before the clock starts, the encoder runs in
its fastest precision and in the chunks that suit it, and its tokens are rounded as cached ones are, so that both sides
lose the same loss.

Dims: b frames of a batch, o observation horizon, h w image height and width (px), n tokens, c channels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from s2robot.data.features import shift_view
from s2robot.errors import S2RobotError
from s2robot.machine import machine
from s2robot.pipeline.dataset import Split, TrainingData
from s2robot.pipeline.distributed import Group
from s2robot.pipeline.encode import FRAMES_PER_BATCH
from s2robot.pipeline.fit import StepRecord, fit
from s2robot.pipeline.job import Job, batch_loss, new_policy, new_state
from s2robot.pipeline.sampler import EpochSampler
from s2robot.pipeline.train import train
from s2robot.policies.batch import Batch
from s2robot.progress import progress


@dataclass(frozen=True)
class Timing:
    """How many steps of each kind are timed in each repeat; `threads` are torch's, 0 for its own choice."""

    cached_steps: int
    uncached_steps: int
    repeats: int
    threads: int

    def __post_init__(self) -> None:
        if min(self.cached_steps, self.uncached_steps, self.repeats) < 1 or self.threads < 0:
            raise S2RobotError(
                f"cached_steps={self.cached_steps}, uncached_steps={self.uncached_steps}, repeats={self.repeats} must "
                f"be at least 1, threads={self.threads} at least 0"
            )


@dataclass(frozen=True)
class TrainBench:
    """Steps per second, and minutes to the validation loss that the whole recipe ends with.

    `ratio` is the median over repeats. `cached_min` is measured and counts encoding everything once; `uncached_min` is
    the same number of steps at the measured pace: both sides take the same steps, so they reach the same loss.
    """

    policy: str
    encoder: str
    machine: str
    threads: int
    batch_size: int
    cached_steps_s: float
    uncached_steps_s: float
    ratio: float
    losses_apart: float
    steps: int
    val_loss: float
    encode_frames_s: float
    encode_min: float
    cached_min: float
    uncached_min: float
    data_wait: float
    peak_gpu_mb: float | None


def bench_train(job: Job, out: Path, timing: Timing) -> TrainBench:
    """Encode what is missing, train the whole recipe into `out` (resumed like any run), then time both kinds of steps.

    Raises S2RobotError for an encoder that sees nothing.
    """
    if not job.encoder.sizes:
        raise S2RobotError(f"encoder {job.encoder.name!r} sees nothing; there is nothing to cache")
    if timing.threads:
        torch.set_num_threads(timing.threads)
    device, recipe = job.encoder.device, job.recipe
    timed = 1 + timing.repeats * timing.cached_steps
    job.check()
    trained_on = job.data_config().split(job.store)[0]
    windows = sum(-(-job.store.entry(name).steps // recipe.stride) for name in trained_on)
    if timed > (steps := recipe.steps(windows)):
        raise S2RobotError(f"the recipe has {steps} steps, {timed} are to be timed; give fewer repeats or cached_steps")
    job.encode()
    trained = train(job, out, Group(0, 1, device))
    last = [point for point in trained.curve if "val_loss" in point][-1]
    data = job.data(device)
    turns = _take_turns(job, data, timing)
    cached_s, uncached_s = statistics.median(turns.cached_s), statistics.median(turns.uncached_s)
    frames = len(data.train) * len(job.data_config().view_ids) + len(data.validation)
    encode_min = frames * len(job.cameras) / turns.frames_s / 60
    return TrainBench(
        policy=str(job.policy["name"]),
        encoder=f"{job.encoder.name} at {', '.join(map(str, job.encoder.sizes))} px",
        machine=machine(device),
        threads=torch.get_num_threads(),
        batch_size=recipe.batch_size,
        cached_steps_s=1 / cached_s,
        uncached_steps_s=1 / uncached_s,
        ratio=statistics.median(slow / quick for slow, quick in zip(turns.uncached_s, turns.cached_s, strict=True)),
        losses_apart=turns.apart,
        steps=int(last["step"]),
        val_loss=last["val_loss"],
        encode_frames_s=turns.frames_s,
        encode_min=encode_min,
        cached_min=encode_min + trained.train_s / 60,
        uncached_min=last["step"] * uncached_s / 60,
        data_wait=trained.data_wait,
        peak_gpu_mb=torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None,
    )


def as_text(result: TrainBench) -> Iterator[str]:
    """The result for people, line by line."""
    yield f"{result.policy} on {result.encoder}, batches of {result.batch_size}"
    yield f"{result.machine}, {result.threads} threads"
    goal = f"minutes to validation loss {result.val_loss:.4f}"
    yield f"{'':34}{'steps/s':>10}{goal:>38}"
    yield f"{'cached features':34}{result.cached_steps_s:>10.2f}{result.cached_min:>38.1f}"
    yield f"{'frozen encoder inside every step':34}{result.uncached_steps_s:>10.3f}{result.uncached_min:>38.1f}"
    sooner = result.uncached_min / result.cached_min
    yield f"cached: {result.ratio:.1f} times the steps per second, {sooner:.1f} times as soon at the loss"
    yield (
        f"({result.steps} steps; encoding once {result.encode_min:.1f} min at {result.encode_frames_s:.0f} frames/s; "
        f"data wait {result.data_wait:.1%}; losses of equal steps differ by at most {result.losses_apart:.1e})"
    )


def _take_turns(job: Job, data: TrainingData, timing: Timing) -> _Turns:
    recipe = job.recipe
    sampler = EpochSampler(data.train, recipe.batch_size, recipe.seed, len(job.data_config().view_ids))
    live = _LiveBatches(job, data, sampler, 1 + timing.repeats * timing.uncached_steps)
    quick, slow = _Clocked(_steps(job, data, sampler)), _Clocked(_steps(job, data, live))
    for side in (quick, slow):
        side.seconds_per_step(1)  # warm-up
    cached, uncached = [], []
    for _ in progress(range(timing.repeats), timing.repeats, "bench train", "repeat"):
        cached.append(quick.seconds_per_step(timing.cached_steps))
        uncached.append(slow.seconds_per_step(timing.uncached_steps))
    apart = max(abs(a - b) for a, b in zip(quick.losses, slow.losses, strict=False))
    return _Turns(cached, uncached, live.frames / live.encoder_s, apart)


@dataclass(frozen=True)
class _Turns:
    """Seconds per step of both kinds in every repeat, the encoder's frames per second, and how far the losses of equal
    steps lie apart at most.
    """

    cached_s: list[float]
    uncached_s: list[float]
    frames_s: float
    apart: float


class _Clocked:
    """Steps of training, timed in portions."""

    def __init__(self, steps: Iterator[StepRecord]) -> None:
        self._steps = steps
        self.losses: list[float] = []

    def seconds_per_step(self, count: int) -> float:
        """Take `count` steps; reading their losses waits for the device."""
        start_s = time.perf_counter()
        losses = [next(self._steps).loss for _ in range(count)]
        self.losses += torch.stack(losses).tolist()
        return (time.perf_counter() - start_s) / count


def _steps(job: Job, data: TrainingData, batches: EpochSampler | _LiveBatches) -> Iterator[StepRecord]:
    """Training from the initial weights, as `train` does it."""
    group = Group(0, 1, job.encoder.device)
    policy = new_policy(job.policy, data, job.recipe.seed).to(group.device)
    return fit(batch_loss(policy, job.recipe, group), batches, new_state(policy, job.recipe, len(data.train), group))


class _LiveBatches:
    """The first batches of a sampler; their tokens are computed when they are asked for, from frames in memory."""

    def __init__(self, job: Job, data: TrainingData, sampler: EpochSampler, steps: int) -> None:
        self.encoder, self.frames, self.encoder_s = job.encoder, 0, 0.0
        self._batches = [sampler(step) for step in range(steps)]
        drawn = [sampler.rows(step) for step in range(steps)]
        self._images = {camera: _frames(job, camera, data.train, drawn) for camera in job.cameras}

    def __call__(self, step: int) -> Batch:
        """With the tokens of this moment in the place of cached ones."""
        batch = self._batches[step]
        tokens = {camera: self._encode(images[step]) for camera, images in self._images.items()}
        return replace(batch, inputs=replace(batch.inputs, tokens=tokens))

    def _encode(self, images: UInt8[Tensor, "b o 3 h w"]) -> Float[Tensor, "b o n c"]:
        start_s = time.perf_counter()
        parts = [self.encoder(part).tokens.half() for part in images.flatten(0, 1).split(FRAMES_PER_BATCH)]
        tokens = torch.cat(parts).unflatten(0, images.shape[:2])
        if tokens.device.type == "cuda":
            torch.cuda.synchronize(tokens.device)
        self.frames += len(images) * images.shape[1]
        self.encoder_s += time.perf_counter() - start_s
        return tokens


def _frames(
    job: Job, camera: str, split: Split, drawn: Sequence[tuple[np.ndarray, np.ndarray]]
) -> list[UInt8[Tensor, "b o 3 h w"]]:
    """The frames of every drawn batch, each under its view; every episode is read once."""
    windows, size = split.windows, job.store.spec.observation.camera(camera)
    horizon = windows.observation.shape[1]
    found = [np.empty((len(rows), horizon, size.height, size.width, 3), np.uint8) for rows, _ in drawn]
    for index, name in enumerate(split.ids):
        images = job.store.read(name, images=[camera]).images[camera]
        shown = [shift_view(images, view, job.store.entry(name).seed) for view in job.data_config().view_ids]
        for block, (rows, views) in zip(found, drawn, strict=True):
            for place in np.flatnonzero(windows.episode[rows] == index):
                row = rows[place]
                within = windows.observation[row] - windows.observation[row, -1] + windows.step[row]
                block[place] = shown[views[place]][within]
    return [torch.from_numpy(block).permute(0, 1, 4, 2, 3) for block in found]
