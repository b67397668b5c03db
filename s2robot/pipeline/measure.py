"""Latency and memory of a checkpoint at batch 1, in a process of its own so that nothing else is counted."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s2robot.machine import machine
from s2robot.policies.agent import Agent
from s2robot.policies.batch import Inputs
from s2robot.types import DatasetSpec, Observation

WARM_UP, CALLS, POLICY_CALLS = 5, 60, 20
POLICY_ROWS = (1, 50)


@dataclass(frozen=True)
class InferenceCost:
    """Of one decision at batch 1: frames in, action chunk out. `peak_mb` is the process's peak resident memory on the
    CPU (libraries and weights included), the peak of allocated device memory on a GPU. `policy_ms` is the median of the
    policy alone, tokens in and chunk out, by batch size. `machine` says what they were measured on.
    """

    latency_p50_ms: float
    latency_p95_ms: float
    peak_mb: float
    gmac_image: float
    gmac_decision: float
    params: int
    policy_params: int
    policy_ms: dict[str, float]
    machine: str


def measure_inference(checkpoint: Path, device: str = "auto") -> InferenceCost:
    """Load the checkpoint in a fresh process and time `infer` on random frames."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, str(checkpoint), device).result()


def _measure(checkpoint: str, device: str) -> InferenceCost:
    from s2robot.encoders.cost import count_gmac
    from s2robot.pipeline.agents import load_policy
    from s2robot.pipeline.checkpoint import open_checkpoint

    agent = load_policy(Path(checkpoint), device)
    spec = DatasetSpec.from_json(open_checkpoint(Path(checkpoint))[1]["spec"])
    observations = [_fake_observation(spec, agent.cameras, seed) for seed in range(8)]
    times_ms = []
    for call in range(WARM_UP + CALLS):
        start_s = time.perf_counter()
        agent.infer(observations[call % len(observations)])
        times_ms.append(1e3 * (time.perf_counter() - start_s))
    p50, p95 = np.percentile(times_ms[WARM_UP:], [50, 95])
    image = agent.encoder.cost().gmac if agent.cameras else 0.0
    head = count_gmac(agent.policy.sample, *_decisions(agent, observations[0], 1), weights=agent.policy)
    policy_params = sum(p.numel() for p in agent.policy.parameters())
    return InferenceCost(
        latency_p50_ms=float(p50),
        latency_p95_ms=float(p95),
        peak_mb=peak_memory_mb(agent.device),
        gmac_image=image,
        gmac_decision=image * len(agent.cameras) + head,
        params=agent.encoder.cost().params + policy_params,
        policy_params=policy_params,
        policy_ms={str(rows): _policy_ms(agent, _decisions(agent, observations[0], rows)) for rows in POLICY_ROWS},
        machine=f"{machine(agent.device)}, {torch.get_num_threads()} threads",
    )


def _decisions(agent: Agent, observation: Observation, rows: int) -> tuple[Inputs, Tensor]:
    """Inputs and noise of as many equal decisions."""
    memory = agent.new_memory()
    memory.push(agent.encode([observation])[0])
    noise = torch.zeros(rows, agent.policy.chunk, len(agent.unnormalise.offset), device=agent.device)
    return agent.inputs([memory] * rows), noise


def _policy_ms(agent: Agent, decisions: tuple[Inputs, Tensor]) -> float:
    times_ms = []
    for _ in range(WARM_UP + POLICY_CALLS):
        start_s = time.perf_counter()
        agent.policy.sample(*decisions).cpu()
        times_ms.append(1e3 * (time.perf_counter() - start_s))
    return float(np.median(times_ms[WARM_UP:]))


def peak_memory_mb(device: torch.device) -> float:
    """Of this process: allocated on the GPU, or resident; `ru_maxrss` would count the parent it was forked off."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(status["VmHWM"].split()[0]) / 1024


def _fake_observation(spec: DatasetSpec, cameras: tuple[str, ...], seed: int) -> Observation:
    """Random frames and state of the right shapes: time does not depend on the content."""
    rng = np.random.default_rng(seed)
    streams = [spec.observation.camera(name) for name in cameras]
    return Observation(
        images={c.name: rng.integers(0, 256, (c.height, c.width, 3), np.uint8) for c in streams},
        proprio=rng.normal(size=len(spec.observation.proprio)).astype(np.float32),
        goal=np.eye(max(1, len(spec.observation.goal)), dtype=np.float32)[0, : len(spec.observation.goal)],
        time_s=0.0,
    )
