"""The policy server: websocket and msgpack as the field's `openpi-client` speaks them, with what that leaves out.

One connection at a time may command: it is the lease. Requests are answered one for one, by a chunk or by an error; a
newer request supersedes one that waits, and one whose budget has run out is not worth an inference. Inference runs in
one thread beside the loop that answers pings.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import http
import ipaddress
import json
import signal
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from s2robot.deploy.runtime import BundlePolicy
from s2robot.deploy.wire import (
    Code,
    Hello,
    Request,
    WireError,
    error_text,
    hello_frame,
    most_bytes,
    read_request,
    reply_frame,
)
from s2robot.errors import S2RobotError
from s2robot.policies.memory import EpisodeMemory
from s2robot.progress import say

TIMINGS = 1000  # newest inferences that health tells of
PING_EVERY_S = 2.0  # a client that does not answer within this loses its lease
SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Listen:
    """Where the server listens, and what a client has to show. Raises S2RobotError for an open door without a lock."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None

    def __post_init__(self) -> None:
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise S2RobotError(
                f"the token has {len(self.token)} characters; give at least {SHORTEST_TOKEN}, random ones"
            )
        if not 0 <= self.port < 65536:
            raise S2RobotError(f"port={self.port}; give 0 (any free one) to 65535")
        if not _is_loopback(self.host) and self.token is None:
            raise S2RobotError(
                f"host={self.host} can be reached from other machines: give token_file= with a secret, or listen on "
                "127.0.0.1 behind a reverse proxy with TLS (docs/deployment.md)"
            )


@dataclass
class _Waiting:
    """A request that has arrived at `arrived_s` (monotonic)."""

    request: Request
    arrived_s: float


@dataclass
class _Lease:
    """The one connection that commands, its episode, and its request that waits for the worker."""

    connection: ServerConnection
    memory: EpisodeMemory
    waiting: _Waiting | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    closing: bool = False
    answering: asyncio.Task[None] | None = None


class PolicyServer:
    """Serves one bundle. `await run()` ends after `stop()`, once what was asked before has been answered."""

    def __init__(self, policy: BundlePolicy, listen: Listen) -> None:
        self.policy, self.listen = policy, listen
        self.status = "warming"
        self.port: int | None = None  # once it listens
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._lease: _Lease | None = None
        self._timings_ms: deque[float] = deque(maxlen=TIMINGS)
        self._answers: dict[str, int] = {"ok": 0}
        self._start_s = time.monotonic()
        self._stopped = asyncio.Event()

    async def run(self, handle_signals: bool = True) -> None:
        """Listen, warm up, serve. Raises S2RobotError where the address cannot be used."""
        where = self.listen
        try:
            server = await serve(
                self._talk, where.host, where.port, process_request=self._admit, compression=None,
                max_size=most_bytes(self.policy.identity.observation), ping_interval=PING_EVERY_S,
                ping_timeout=PING_EVERY_S, max_queue=4,
                origins=[None],  # browsers say theirs: no web page takes the lease
            )  # fmt: skip
        except OSError as error:
            raise S2RobotError(
                f"cannot listen on {where.host}:{where.port} ({error.strerror}); choose another"
            ) from error
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            loop = asyncio.get_running_loop()
            if handle_signals:
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, self.stop)
            await loop.run_in_executor(self._worker, self.policy.warm_up)
            if self.status == "warming":
                self.status = "ready"
                say(f"ready: ws://{where.host}:{self.port}, health at http://{where.host}:{self.port}/healthz")
            await self._stopped.wait()
            await self._drain(server)

    def stop(self) -> None:
        """Take no more requests; answer those that have come."""
        self.status = "draining"
        self._stopped.set()

    async def _drain(self, server: Server) -> None:
        lease = self._lease
        if lease is not None:
            if lease.waiting is not None:
                waiting, lease.waiting = lease.waiting, None
                await self._refuse(lease.connection, "draining", "the server stops", waiting.request.id)
            lease.closing = True
            lease.arrived.set()
            if lease.answering is not None:
                await lease.answering
        server.close()
        await server.wait_closed()
        self._worker.shutdown()

    # Before a connection is one.

    def _admit(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        if request.path == "/healthz":
            ready = self.status == "ready"
            return _response(http.HTTPStatus.OK if ready else http.HTTPStatus.SERVICE_UNAVAILABLE, self.health())
        if not self._may_enter(request.headers.get_all("Authorization")):
            return _response(http.HTTPStatus.UNAUTHORIZED, {"error": "unauthorized"})
        if self.status != "ready":
            return _response(http.HTTPStatus.SERVICE_UNAVAILABLE, {"error": self.status})
        if self._lease is not None:
            return _response(http.HTTPStatus.CONFLICT, {"error": "busy", "message": "another client commands"})
        return None

    def _may_enter(self, given: list[str]) -> bool:
        if self.listen.token is None:
            return True
        shown = given[0] if len(given) == 1 else ""
        scheme, _, token = shown.partition(" ")
        # Hashes of equal length, compared in a time that does not tell how much of the token was right.
        ours, theirs = (hashlib.sha256(t.encode(errors="replace")).digest() for t in (self.listen.token, token))
        return hmac.compare_digest(ours, theirs) and scheme in ("Api-Key", "Bearer")

    def health(self) -> dict[str, Any]:
        """What the health endpoint tells: state, timings of the newest inferences (ms), answers by kind."""
        times = np.array(self._timings_ms)
        quantiles = {f"p{q}_ms": round(float(np.percentile(times, q)), 3) for q in (50, 95, 99)} if len(times) else {}
        return {
            "status": self.status,
            "leased": self._lease is not None,
            "uptime_s": round(time.monotonic() - self._start_s, 1),
            "checkpoint_sha256": self.policy.identity.checkpoint_sha256,
            "answers": dict(self._answers),
            "inference": {"count": len(times), **quantiles},
        }

    # A connection.

    async def _talk(self, connection: ServerConnection) -> None:
        if self._lease is not None or self.status != "ready":  # two that were admitted in the same instant
            await connection.close(1013, "another client commands")
            return
        lease = self._lease = _Lease(connection, self.policy.new_memory())
        manifest = self.policy.manifest
        lease.answering = asyncio.create_task(self._answer(lease))
        try:
            with contextlib.suppress(ConnectionClosed):
                await connection.send(hello_frame(Hello(1, manifest.identity, manifest.decisions, manifest.task)))
                async for frame in connection:
                    await self._take(lease, frame)
        finally:
            lease.closing = True
            lease.arrived.set()
            await lease.answering
            self._lease = None

    async def _take(self, lease: _Lease, frame: bytes | str) -> None:
        try:
            request = read_request(frame, self.policy.identity.observation)
        except WireError as error:
            await self._refuse(lease.connection, "bad_request", str(error))
            return
        if self.status == "draining":
            await self._refuse(lease.connection, "draining", "the server stops", request.id)
            return
        older = lease.waiting
        if older is not None and older.request.reset:  # the episode that it began is this one's
            request = replace(request, reset=True)
        lease.waiting = _Waiting(request, time.monotonic())
        lease.arrived.set()
        if older is not None:
            await self._refuse(lease.connection, "superseded", "a newer request came", older.request.id)

    async def _answer(self, lease: _Lease) -> None:
        """Takes the request that waits, one after the other, until the connection closes."""
        while True:
            await lease.arrived.wait()
            lease.arrived.clear()
            waiting, lease.waiting = lease.waiting, None
            if waiting is not None:
                await self._decide(lease, waiting)
            elif lease.closing:
                await lease.connection.close(1001, "the server stops" if self.status == "draining" else "")
                return
            if lease.closing:
                lease.arrived.set()

    async def _decide(self, lease: _Lease, waiting: _Waiting) -> None:
        request, loop = waiting.request, asyncio.get_running_loop()
        started_s = time.monotonic()
        if request.reset:  # late or not: the episode has begun
            lease.memory = self.policy.new_memory()
        if _is_late(waiting, started_s):
            await self._refuse(lease.connection, "late", "its budget ran out before it was its turn", request.id)
            return
        key = (request.seed, request.id)
        try:
            run = self.policy.chunk
            actions = await loop.run_in_executor(self._worker, run, request.observation, lease.memory, key)
        except Exception as error:  # whatever it was, the client gets an answer and no traceback
            say(f"inference failed: {type(error).__name__}: {error}")
            await self._refuse(lease.connection, "internal", "inference failed; see the server's log", request.id)
            return
        done_s = time.monotonic()
        self._timings_ms.append(1e3 * (done_s - started_s))
        if _is_late(waiting, done_s):
            await self._refuse(lease.connection, "late", "its budget ran out during inference", request.id)
            return
        timing = {"infer_ms": 1e3 * (done_s - started_s), "wait_ms": 1e3 * (started_s - waiting.arrived_s)}
        await self._send(lease.connection, reply_frame(actions, request.id, timing), "ok")

    async def _refuse(self, connection: ServerConnection, code: Code, message: str, id: int | None = None) -> None:
        await self._send(connection, error_text(code, message, id), code)

    async def _send(self, connection: ServerConnection, frame: bytes | str, kind: str) -> None:
        self._answers[kind] = self._answers.get(kind, 0) + 1
        with contextlib.suppress(ConnectionClosed):
            await connection.send(frame)


def _is_late(waiting: _Waiting, now_s: float) -> bool:
    budget_ms = waiting.request.budget_ms
    return budget_ms is not None and 1e3 * (now_s - waiting.arrived_s) > budget_ms


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _response(status: http.HTTPStatus, body: dict[str, Any]) -> Response:
    data = json.dumps(body).encode()
    headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(data)), "Connection": "close"})
    return Response(status.value, status.phrase, headers, data)
