"""Encoder and policy on recorded states, by every runtime, in one run, with what each gets wrong beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2robot.data.episodes import EpisodeStore
from s2robot.deploy.bench.episodes import quantiles
from s2robot.deploy.export.parity import action_scale, recorded_states
from s2robot.deploy.runtime import BundlePolicy
from s2robot.encoders.load import load_encoder
from s2robot.pipeline.agents import load_policy
from s2robot.pipeline.checkpoint import open_checkpoint
from s2robot.policies.agent import Agent
from s2robot.types import Observation

WARM_UP = 5


@dataclass(frozen=True)
class LatencyRow:
    """One runtime: time from a frame to a chunk at batch 1, and the mean and worst difference of its actions from torch
    in float32, as shares of their range.
    """

    runtime: str
    threads: int
    states: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    action_mean: float
    action_worst: float


def bench_latency(
    checkpoint: Path, bundles: Sequence[Path], store: Path, states: int, threads: int
) -> list[LatencyRow]:
    """Each runtime decides on the same states, in turns, so that whatever else the machine does meets all alike."""
    torch.set_num_threads(threads)
    path, manifest = open_checkpoint(checkpoint)
    agents = {f"torch {dtype}": _agent(path, manifest, dtype) for dtype in ("float32", "bfloat16")}
    policies = {bundle: BundlePolicy(bundle, threads=threads) for bundle in bundles}
    ported = {f"onnxruntime {policy.manifest.precision} ({bundle})": policy for bundle, policy in policies.items()}
    fraction = float(manifest["recipe"]["validation_fraction"])
    seen = recorded_states(EpisodeStore(store), states, fraction, held_out=True)
    decide: dict[str, Callable[[Observation], np.ndarray]] = {
        **{name: _torch_decider(agent) for name, agent in agents.items()},
        **{name: _bundle_decider(policy) for name, policy in ported.items()},
    }
    times: dict[str, list[float]] = {name: [] for name in decide}
    chunks: dict[str, list[np.ndarray]] = {name: [] for name in decide}
    for run in decide.values():
        for observation in seen[:WARM_UP]:
            run(observation)
    for observation in seen:
        for name, run in decide.items():
            start_s = time.perf_counter()
            chunks[name].append(run(observation))
            times[name].append(time.perf_counter() - start_s)
    scale = action_scale(agents["torch float32"].unnormalise.scale, next(iter(ported.values())).manifest)
    want = np.stack(chunks["torch float32"])
    rows = []
    for name in decide:
        error = np.abs(np.stack(chunks[name]) - want) / scale
        found = quantiles([1e3 * t for t in times[name]])
        rows.append(
            LatencyRow(
                name,
                threads,
                len(seen),
                found["p50"],
                found["p95"],
                found["p99"],
                float(error.mean()),
                float(error.max()),
            )
        )
    return rows


def as_text(rows: Sequence[LatencyRow]) -> list[str]:
    """A table."""
    width = max([22, *(len(r.runtime) for r in rows)])
    head = f"{'runtime':{width}} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'action mean':>12} {'worst':>9}"
    return [head] + [
        f"{r.runtime:{width}} {r.p50_ms:8.1f} {r.p95_ms:8.1f} {r.p99_ms:8.1f} {r.action_mean:12.2g} "
        f"{r.action_worst:9.2g}"
        for r in rows
    ]


def to_json(rows: Sequence[LatencyRow]) -> list[dict[str, Any]]:
    """Plain JSON types."""
    return [asdict(row) for row in rows]


def _agent(path: Path, manifest: dict[str, Any], dtype: str) -> Agent:
    agent = load_policy(path, "cpu")
    encoder = load_encoder(manifest["encoder"]["config"], device="cpu", dtype=dtype)
    return Agent(
        encoder, agent.policy, agent.proprio, agent.unnormalise.inverse(), agent.cameras, 1, agent.representation
    )


def _torch_decider(agent: Agent) -> Callable[[Observation], np.ndarray]:
    noise = torch.zeros(1, agent.policy.chunk, len(agent.unnormalise.offset))

    @torch.no_grad()
    def decide(observation: Observation) -> np.ndarray:
        memory = agent.new_memory()
        memory.push(agent.encode([observation])[0])
        return agent.unnormalise(agent.policy.sample(agent.inputs([memory]), noise).numpy())[0]

    return decide


def _bundle_decider(policy: BundlePolicy) -> Callable[[Observation], np.ndarray]:
    spec = policy.noise(0, 0)

    def decide(observation: Observation) -> np.ndarray:
        memory = policy.new_memory()
        policy.see(observation, memory)
        return policy.decide(memory.steps(), np.zeros_like(spec))

    return decide
