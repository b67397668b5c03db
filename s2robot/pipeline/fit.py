"""The one training loop: policies, pre-training and probe heads all run through `fit`.

Every random draw of a step is a function of (seed, step): batches are made from the step number and the global
generator is seeded anew before each step. So a resumed run repeats the interrupted one bit for bit on the CPU
without saving an iterator or a generator, and validation between steps cannot disturb training.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from s2robot.allocator import large_blocks_kept

Batch = Any


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `lr`, then a cosine to `lr * final`, over `steps` optimiser steps."""

    lr: float
    steps: int
    warmup: int = 0
    final: float = 0.0

    def at(self, step: int) -> float:
        """Learning rate of step number `step` (from 0)."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        t = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.lr * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * t)))


@dataclass
class TrainState:
    """Everything that changes during training. `ema` is a slow copy of `module`, or None."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    seed: int
    clip: float = 1.0
    ema: nn.Module | None = None
    ema_power: float = 0.75
    ema_max: float = 0.9999
    step: int = 0
    stream: int = 0  # of random draws: processes that share a batch have one each

    @classmethod
    def create(
        cls,
        module: nn.Module,
        schedule: Schedule,
        *,
        seed: int,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        clip: float = 1.0,
        ema: bool = False,
        stream: int = 0,
    ) -> TrainState:
        """AdamW over the parameters that require gradients; no decay on vectors (biases, norms)."""
        trained = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=schedule.lr, betas=betas, fused=True)
        slow = copy.deepcopy(module).requires_grad_(False) if ema else None
        return cls(module, optimizer, schedule, seed, clip, slow, stream=stream)

    def tensors(self) -> dict[str, Tensor]:
        """Module, EMA and optimiser tensors under flat names; with `step` this is the whole state."""
        flat = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        if self.ema is not None:
            flat |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            flat |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in slots.items()}
        return flat

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Inverse of `tensors`."""
        self.module.load_state_dict(_below(tensors, "module."))
        if self.ema is not None:
            self.ema.load_state_dict(_below(tensors, "ema."))
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in _below(tensors, "optimizer.").items():
            index, name = key.split(".", 1)
            slots.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.step = step

    @property
    def best(self) -> nn.Module:
        """The module to evaluate and ship: the EMA where there is one."""
        return self.module if self.ema is None else self.ema


@dataclass(frozen=True)
class StepRecord:
    """One optimiser step. `loss` stays a tensor so that reading it is the caller's choice of when to wait."""

    step: int
    loss: Tensor
    lr: float
    grad_norm: Tensor
    data_s: float
    step_s: float
    parts: dict[str, Tensor] = field(default_factory=dict)


def fit(
    loss: Callable[[Batch], Tensor],
    batches: Callable[[int], Batch],
    state: TrainState,
) -> Iterator[StepRecord]:
    """Train until `state.schedule.steps`, yielding after every step; the caller logs, validates and saves in its loop.

    Args:
        loss: batch -> scalar; reads `state.module`.
        batches: step -> batch, a pure function of the step.
        state: advanced in place.
    """
    with large_blocks_kept():
        state.module.train()
        while state.step < state.schedule.steps:
            start_s = time.perf_counter()
            _seed(state.seed * 1_000_003 + state.step + 1_000_000_007 * state.stream)
            batch = batches(state.step)
            data_s = time.perf_counter() - start_s
            lr = state.schedule.at(state.step)
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            value = loss(batch)
            state.optimizer.zero_grad(set_to_none=True)
            value.backward()
            norm = nn.utils.clip_grad_norm_(state.module.parameters(), state.clip)
            state.optimizer.step()
            state.step += 1
            if state.ema is not None:
                _update_ema(state)
            yield StepRecord(state.step, value.detach(), lr, norm, data_s, time.perf_counter() - start_s)
            state.module.train()  # the caller may have evaluated


def _seed(seed: int) -> None:
    """As torch.manual_seed, which keeps a stack trace of every call for the devices that are not in use: 30 % of a
    small step, and memory that grows.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@torch.no_grad()
def _update_ema(state: TrainState) -> None:
    """Decay 1 - (1 + step)^-power, capped (the schedule of Diffusion Policy's EMA, arXiv 2303.04137)."""
    assert state.ema is not None
    decay = min(state.ema_max, 1.0 - (1.0 + state.step) ** -state.ema_power)
    slow, fast = state.ema.state_dict(), state.module.state_dict()
    for key, value in slow.items():
        if value.dtype.is_floating_point:
            value.lerp_(fast[key], 1.0 - decay)
        else:
            value.copy_(fast[key])


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
