"""One process, or several under torchrun that share every batch and average their gradients (DDP)."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Group:
    """This process among `world` ones. The first logs and saves."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process does what only one may do."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all have come here."""
        if self.world > 1:
            distributed.barrier()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over the processes."""
        if self.world > 1:
            value = value.clone()
            distributed.all_reduce(value)
            value /= self.world
        return value

    def wrap(self, module: nn.Module) -> Callable[..., Any]:
        """`module`, with gradients averaged over the processes."""
        if self.world == 1:
            return module
        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)


@contextlib.contextmanager
def process_group(device: str) -> Iterator[Group]:
    """The group that torchrun's variables describe, or this process alone. NCCL on GPUs, one each; gloo elsewhere."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    place = torch.device(device)
    if world == 1:
        yield Group(0, 1, place)
        return
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    # The others wait while the first draws all frames, which may take hours.
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=datetime.timedelta(days=1))
    try:
        yield Group(rank, world, place)
    finally:
        distributed.destroy_process_group()
