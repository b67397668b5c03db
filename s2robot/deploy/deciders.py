"""Who decides: a bundle in this process, or a policy server. One thread asks, so that motion goes on meanwhile.

Dims: k chunk, a action.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from s2robot.deploy.bundle import Decisions, Identity
from s2robot.deploy.client import RemotePolicy, ServerLost
from s2robot.deploy.log import PictureEntry, png
from s2robot.deploy.runtime import BundlePolicy
from s2robot.deploy.wire import Request
from s2robot.errors import MismatchError, S2RobotError
from s2robot.types import require_equal

ANOTHER_POLICY = "start the server with the bundle whose manifest was given as identity="


@runtime_checkable
class Decider(Protocol):
    """Answers one request at a time."""

    identity: Identity
    decisions: Decisions

    def decide(self, request: Request) -> Any:
        """The chunk, unchecked. Raises S2RobotError where there is none, MismatchError where another policy answers."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class LocalDecider:
    """A bundle in this process."""

    def __init__(self, policy: BundlePolicy) -> None:
        self.policy = policy
        self.identity, self.decisions = policy.identity, policy.decisions
        policy.warm_up()
        self._memory = policy.new_memory()

    def decide(self, request: Request) -> Any:
        """The chunk."""
        if request.reset:
            self._memory = self.policy.new_memory()
        return self.policy.chunk(request.observation, self._memory, (request.seed, request.id))

    def close(self) -> None:
        """Nothing to let go."""


class RemoteDecider:
    """A policy server that has to be the one that `identity` says; connects again whenever it was lost.

    After a connection that was lost the server knows nothing of the episode: the next request begins it anew.
    """

    def __init__(self, client: RemotePolicy, identity: Identity, timeout_s: float) -> None:
        self.client, self.identity, self.timeout_s = client, identity, timeout_s
        self._connected = False
        self.decisions = self._connect()

    def decide(self, request: Request) -> Any:
        """The chunk. Raises ServerLost where there is no answer in time."""
        if not self._connected:
            self.decisions = self._connect()
            request = Request(request.observation, request.id, True, request.budget_ms, request.seed)
        try:
            return self.client.decide(request, self.timeout_s)
        except ServerLost:
            self._connected = False
            raise

    def close(self) -> None:
        """Gives the lease back."""
        self.client.close()

    def _connect(self) -> Decisions:
        hello = self.client.connect()
        try:
            require_equal("the server's policy", hello.identity, self.identity, ANOTHER_POLICY)
        except MismatchError:
            self.client.close()
            raise
        self._connected = True
        return hello.decisions


@dataclass(frozen=True)
class Asked:
    """A request under way: the tick of its observation, when its oldest frame was captured, when it was asked, and
    whether it is only timed.
    """

    request: Request
    at: int
    captured_s: float
    asked_s: float
    rehearsed: bool = False


@dataclass(frozen=True)
class Answer:
    """What came of it: a chunk, or why there is none; `took_s` from the asking thread's side."""

    asked: Asked
    chunk: Any
    error: S2RobotError | None
    took_s: float


class Worker:
    """One thread that asks the decider, at most one request at a time.

    With `pictures` it then packs those that were decided on, for the log.
    """

    def __init__(self, decider: Decider, pictures: bool) -> None:
        self._decider, self._pictures = decider, pictures
        self._requests: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._filmed: queue.SimpleQueue[PictureEntry] = queue.SimpleQueue()
        self.busy = False
        self._thread = threading.Thread(target=self._work, name="decider", daemon=True)
        self._thread.start()

    def ask(self, asked: Asked) -> None:
        """Returns at once."""
        self.busy = True
        self._requests.put(asked)

    def answer(self) -> Answer | None:
        """What has come since, if anything."""
        try:
            found = self._answers.get_nowait()
        except queue.Empty:
            return None
        self.busy = False
        return found

    def filmed(self) -> Iterator[PictureEntry]:
        """Pictures that have been packed since."""
        while not self._filmed.empty():
            yield self._filmed.get()

    def forget(self) -> None:
        """Wait for the answer that is under way, if any, and drop it: it belongs to an episode that is over."""
        while self.busy:
            if self.answer() is None:
                time.sleep(0.001)

    def end(self) -> None:
        """End the thread once what runs is finished; does not wait for a server that hangs."""
        self._requests.put(None)
        self._thread.join(0.5)

    def close(self) -> None:
        """End the thread and let go of the decider."""
        self.end()
        self._decider.close()

    def _work(self) -> None:
        while (asked := self._requests.get()) is not None:
            chunk, failure, start_s = None, None, time.monotonic()
            try:
                chunk = self._decider.decide(asked.request)
            except S2RobotError as error:
                failure = error
            except Exception as error:  # a runtime's own exceptions; the loop holds and says so
                failure = S2RobotError(f"{type(error).__name__}: {error}")
            self._answers.put(Answer(asked, chunk, failure, time.monotonic() - start_s))
            if self._pictures and not asked.rehearsed:
                for camera, picture in asked.request.observation.images.items():
                    self._filmed.put(PictureEntry(asked.asked_s, camera, png(picture)))
