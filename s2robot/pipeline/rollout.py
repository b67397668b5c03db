"""Rollouts: environments step in worker processes, the encoder and the policy run here, once for all of them.

Slots are environments; workers own them, but no result depends on who owns which: an episode is a function of its
seed, and every decision goes through encoder and policy in groups of constant size (see `Agent`).
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol, runtime_checkable

import numpy as np

from s2robot.errors import S2RobotError
from s2robot.execution import initialise_worker, worker_environment
from s2robot.gl import select_gl_backend
from s2robot.policies.memory import EpisodeMemory
from s2robot.types import EndReason, Grasp, Observation

SLOTS = 8  # environments that run at once, whatever the number of workers


@runtime_checkable
class Actor(Protocol):
    """Who decides: an `Agent`, or a bundle."""

    cameras: tuple[str, ...]
    representation: str

    def new_memory(self) -> EpisodeMemory:
        """The empty memory of an episode that begins."""
        ...

    def infer_batch(
        self, observations: Sequence[Observation], memories: Sequence[EpisodeMemory], keys: Sequence[tuple[int, int]]
    ) -> np.ndarray:
        """The next actions of several episodes."""
        ...


@dataclass(frozen=True)
class Request:
    """What a slot is to do: start an episode (`seed`) or execute `actions`, then render `cameras`."""

    slot: int
    cameras: tuple[str, ...]
    seed: int | None = None
    actions: np.ndarray | None = None
    representation: str = "delta"


@dataclass(frozen=True)
class Reply:
    """What a slot saw. `observation` is None once the episode has ended."""

    slot: int
    observation: Observation | None
    steps: int
    end: EndReason | None
    initial_state_sha256: str
    grasp: Grasp | None = None


@dataclass
class Rollout:
    """One finished episode. `seam` is the mean of its `EpisodeMemory.seams`, None where chunks do not overlap; `clip`
    holds the frames of the recorded camera at every decision.
    """

    seed: int
    initial_state_sha256: str
    success: bool
    steps: int
    end: EndReason
    seconds: float
    decisions: int
    seam: float | None
    grasp: Grasp | None
    clip: list[np.ndarray] = field(default_factory=list)


class RolloutPool:
    """`SLOTS` environments of one task in `workers` spawned processes. Use as a context manager."""

    def __init__(self, task: Mapping[str, Any], workers: int) -> None:
        if workers < 1:
            raise S2RobotError(f"workers={workers}; rollouts need at least one worker process")
        self.task = dict(task)
        self.workers = min(workers, SLOTS)
        self._connections: list[Connection] = []
        self._processes: list[Any] = []

    def __enter__(self) -> RolloutPool:
        select_gl_backend()  # once, here: the workers inherit the choice
        context = multiprocessing.get_context("spawn")
        task_json = json.dumps(self.task)
        with worker_environment():
            for _ in range(self.workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, task_json), daemon=True)
                process.start()
                theirs.close()
                self._connections.append(ours)
                self._processes.append(process)
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
        self._connections, self._processes = [], []

    def exchange(self, requests: Sequence[Request]) -> list[Reply]:
        """Carry out the requests, each worker its own slots, and return the replies in the order of slots."""
        busy = []
        replies: list[Reply] = []
        try:
            for index, connection in enumerate(self._connections):
                share = [request for request in requests if request.slot % self.workers == index]
                if share:
                    connection.send(share)
                    busy.append(connection)
            for connection in busy:
                answer = connection.recv()
                if isinstance(answer, S2RobotError):
                    raise answer
                replies.extend(answer)
        except (OSError, EOFError) as error:  # a broken pipe here is not the reader of our output that has gone
            raise S2RobotError("a rollout worker died (out of memory?); `s2robot doctor` checks rendering") from error
        return sorted(replies, key=lambda reply: reply.slot)


def _work(connection: Connection, task_json: str) -> None:
    """A worker: environments by slot, built when first used."""
    initialise_worker()
    envs: dict[int, Any] = {}
    initial: dict[int, str] = {}
    while True:
        try:
            requests: list[Request] = connection.recv()
        except EOFError:
            return
        try:
            answer: Any = [_carry_out(request, envs, initial, task_json) for request in requests]
        except S2RobotError as error:
            answer = error
        try:
            connection.send(answer)
        except OSError:  # nobody waits for it any more
            return


def _carry_out(request: Request, envs: dict[int, Any], initial: dict[int, str], task_json: str) -> Reply:
    from s2robot.envs import make_task

    if request.slot not in envs:
        envs[request.slot] = make_task(json.loads(task_json))
    env = envs[request.slot]
    if request.seed is not None:
        _, info = env.reset(seed=request.seed)
        initial[request.slot] = info["initial_state_sha256"]
    else:
        assert request.actions is not None
        env.step_chunk(request.actions, request.representation)
    observation = None if env.end else env.observe(request.cameras)
    return Reply(request.slot, observation, env.steps, env.end, initial[request.slot], env.grasp)


@dataclass
class _Running:
    """One slot's episode so far."""

    seed: int
    memory: EpisodeMemory
    start_s: float
    decisions: int = 0
    clip: list[np.ndarray] = field(default_factory=list)


def rollout(pool: RolloutPool, agent: Actor, seeds: Sequence[int], record: str | None = None) -> Iterator[Rollout]:
    """Yield every episode as it ends. `record` names a camera whose frames are kept.

    Raises S2RobotError where a camera is unknown or a worker fails.
    """
    waiting = list(reversed(seeds))
    running: dict[int, _Running] = {}
    cameras = tuple(dict.fromkeys((*agent.cameras, record))) if record else agent.cameras
    requests: list[Request] = []
    free = list(range(SLOTS))
    while waiting or running:
        while waiting and free:
            slot = free.pop(0)
            running[slot] = _Running(waiting.pop(), agent.new_memory(), time.perf_counter())
            requests.append(Request(slot, cameras, seed=running[slot].seed))
        deciding: dict[int, Observation] = {}
        for reply in pool.exchange(requests):
            episode = running[reply.slot]
            if reply.end is not None:
                yield _finish(episode, reply)
                del running[reply.slot]
                free.append(reply.slot)
                continue
            assert reply.observation is not None
            if record is not None:
                episode.clip.append(reply.observation.images[record])
            deciding[reply.slot] = reply.observation
        requests = []
        if deciding:
            keys = [(running[slot].seed, running[slot].decisions) for slot in deciding]
            memories = [running[slot].memory for slot in deciding]
            chunks = agent.infer_batch(list(deciding.values()), memories, keys)
            for slot, chunk in zip(deciding, chunks, strict=True):
                running[slot].decisions += 1
                requests.append(Request(slot, cameras, actions=chunk, representation=agent.representation))


def _finish(episode: _Running, reply: Reply) -> Rollout:
    assert reply.end is not None
    return Rollout(
        seed=episode.seed,
        initial_state_sha256=reply.initial_state_sha256,
        success=reply.end == "success",
        steps=reply.steps,
        end=reply.end,
        seconds=time.perf_counter() - episode.start_s,
        decisions=episode.decisions,
        seam=float(np.mean(episode.memory.seams)) if episode.memory.seams else None,
        grasp=reply.grasp,
        clip=episode.clip,
    )
