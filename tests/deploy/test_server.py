"""The policy server, talked to by the field's own client and by clients that misbehave."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from s2robot.deploy.client import RemotePolicy, ServerLost
from s2robot.deploy.runtime import BundlePolicy
from s2robot.deploy.server import Listen, PolicyServer
from s2robot.deploy.wire import Request, pack, read_hello, request_frame
from s2robot.errors import S2RobotError
from s2robot.types import Observation
from tests.deploy.tiny_bundle import PX

TOKEN = "a secret of some length"


@contextmanager
def serving(bundle: Path, slow_s: float = 0.0, **listen: Any) -> Iterator[PolicyServer]:
    """A server in a thread; `slow_s` is added to every inference."""
    policy = BundlePolicy(bundle, threads=1)
    if slow_s:
        plain = policy.chunk
        policy.chunk = lambda *args: (time.sleep(slow_s), plain(*args))[1]  # type: ignore[method-assign]
    ready: list[PolicyServer] = []
    loop = asyncio.new_event_loop()

    async def main() -> None:
        server = PolicyServer(policy, Listen(port=0, **listen))
        ready.append(server)
        await server.run(handle_signals=False)

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not ready or ready[0].status == "warming":
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ready[0].stop_soon = lambda: loop.call_soon_threadsafe(ready[0].stop)  # type: ignore[attr-defined]
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(ready[0].stop)
        thread.join(20)
        assert not thread.is_alive()


def seen(value: float = 0.0) -> Observation:
    image = np.random.default_rng(0).integers(0, 256, (PX, PX, 3), dtype=np.uint8)
    return Observation({"front": image}, np.full(3, value, np.float32), np.array([1, 0], np.float32), 0.0)


def flat(observation: Observation) -> dict[str, Any]:
    return {"images/front": observation.images["front"], "proprio": observation.proprio, "goal": observation.goal}


def url(server: PolicyServer) -> str:
    return f"ws://127.0.0.1:{server.port}"


def health(server: PolicyServer) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz", timeout=5) as answer:
        return json.load(answer)


def test_the_fields_own_client_gets_the_chunks_of_the_bundle(bundle: Path) -> None:
    policy = BundlePolicy(bundle)
    with serving(bundle) as server:
        client = WebsocketClientPolicy("127.0.0.1", server.port)
        assert read_hello(pack(client.get_server_metadata())).task == "tiny"
        for step in range(3):
            observation = seen(0.1 * step)
            answer = client.infer(flat(observation))
            want = policy.chunk(observation, policy.new_memory(), (0, 0))
            np.testing.assert_array_equal(answer["actions"], want)
            assert answer["server_timing"]["infer_ms"] > 0
        with pytest.raises(RuntimeError, match=r"bad_request.*proprio"):
            client.infer(flat(observation) | {"proprio": np.zeros(4, np.float32)})
        np.testing.assert_array_equal(client.infer(flat(observation))["actions"], want)  # it goes on
        assert health(server)["answers"] == {"ok": 4, "bad_request": 1}
        client._ws.close()


def test_our_client_gets_them_too_and_one_connection_is_the_lease(bundle: Path) -> None:
    with serving(bundle) as server:
        first, second = RemotePolicy(url(server)), RemotePolicy(url(server))
        assert first.connect().decisions.chunk == 8
        assert health(server)["leased"]
        with pytest.raises(ServerLost, match="409"):
            second.connect()
        assert np.shape(first.decide(Request(seen(), id=7), 5.0)) == (8, 3)
        first.close()
        deadline = time.monotonic() + 5
        while health(server)["leased"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        second.connect()
        second.close()


def test_an_address_that_others_reach_needs_a_token() -> None:
    with pytest.raises(S2RobotError, match="token_file"):
        Listen(host="0.0.0.0")
    with pytest.raises(S2RobotError, match="at least 16"):
        Listen(token="short")
    assert Listen(host="0.0.0.0", token=TOKEN).host == "0.0.0.0"
    assert Listen(host="::1").token is None


@pytest.mark.parametrize("header", [None, "Api-Key wrong", f"Basic {TOKEN}", f"Api-Key {TOKEN}x", "Api-Key " + "é" * 9])
def test_without_the_right_token_nobody_enters(bundle: Path, header: str | None) -> None:
    with serving(bundle, token=TOKEN) as server:
        headers = {"Authorization": header} if header else None
        with pytest.raises((InvalidStatus, UnicodeEncodeError), match=r"401|codec"):
            connect(url(server), additional_headers=headers)
        client = WebsocketClientPolicy("127.0.0.1", server.port, api_key=TOKEN)
        assert client.infer(flat(seen()))["actions"].shape == (8, 3)
        client._ws.close()


def test_every_request_is_answered_once_by_a_chunk_or_an_error(bundle: Path) -> None:
    with serving(bundle, slow_s=1.0) as server, connect(url(server)) as socket:
        socket.recv()
        for id in range(5):  # while the first is computed, each of the others supersedes the one before
            socket.send(request_frame(Request(seen(), id=id)))
            time.sleep(0.0 if id else 0.4)
        answers = [socket.recv(timeout=5) for _ in range(5)]
        errors = [json.loads(a) for a in answers if isinstance(a, str)]
        chunks = [msgpack.unpackb(a)["id"] for a in answers if isinstance(a, bytes)]
        assert chunks == [0, 4]
        assert sorted((e["id"], e["error"]) for e in errors) == [(i, "superseded") for i in (1, 2, 3)]
        with pytest.raises(TimeoutError, match="timed out"):
            socket.recv(timeout=1.2)


def test_a_request_whose_budget_has_run_out_is_told_so(bundle: Path) -> None:
    with serving(bundle, slow_s=1.0) as server, connect(url(server)) as socket:
        socket.recv()
        socket.send(request_frame(Request(seen(), id=1, budget_ms=500.0)))  # runs out during inference
        assert json.loads(socket.recv(timeout=5)) == {
            "error": "late", "message": "its budget ran out during inference", "id": 1,
        }  # fmt: skip
        socket.send(request_frame(Request(seen(), id=2)))
        time.sleep(0.3)
        socket.send(request_frame(Request(seen(), id=3, budget_ms=200.0)))  # runs out while the other one is computed
        assert msgpack.unpackb(socket.recv(timeout=5))["id"] == 2
        assert json.loads(socket.recv(timeout=5))["message"] == "its budget ran out before it was its turn"


@pytest.mark.parametrize("lost", ["superseded", "late"])
def test_an_episode_begins_even_if_the_request_that_says_so_is_not_decided_on(bundle: Path, lost: str) -> None:
    with serving(bundle, slow_s=1.0) as server, connect(url(server)) as socket:
        socket.recv()
        plain, memories = server.policy.chunk, []
        server.policy.chunk = lambda *args: (memories.append(args[1]), plain(*args))[1]  # type: ignore[method-assign]
        socket.send(request_frame(Request(seen(), id=1)))
        time.sleep(0.3)
        socket.send(request_frame(Request(seen(), id=2, reset=True, budget_ms=200.0)))
        if lost == "late":
            assert msgpack.unpackb(socket.recv(timeout=5))["id"] == 1
            assert json.loads(socket.recv(timeout=5))["error"] == lost
        socket.send(request_frame(Request(seen(), id=3)))
        answers = [socket.recv(timeout=5) for _ in range(1 if lost == "late" else 3)]
        assert msgpack.unpackb(answers[-1])["id"] == 3
        assert len(memories) == 2
        assert memories[0] is not memories[1]


def test_no_web_page_takes_the_lease(bundle: Path) -> None:
    with serving(bundle) as server:
        for origin in ("http://evil.example", f"http://127.0.0.1:{server.port}", "null"):
            with pytest.raises(InvalidStatus, match="403"):
                connect(url(server), origin=origin)  # type: ignore[arg-type]
        assert not health(server)["leased"]
        with connect(url(server)) as socket:  # as the field's client and ours do
            read_hello(socket.recv())


def test_pings_are_answered_during_inference(bundle: Path) -> None:
    with serving(bundle, slow_s=2.0) as server, connect(url(server)) as socket:
        socket.recv()
        socket.send(request_frame(Request(seen())))
        time.sleep(0.3)
        assert socket.ping().wait(1.0)
        assert isinstance(socket.recv(timeout=5), bytes)


def test_a_frame_that_is_too_large_closes_the_connection_before_it_is_read(bundle: Path) -> None:
    with serving(bundle) as server, connect(url(server)) as socket:
        socket.recv()
        socket.send(bytes(10_000_000))
        with pytest.raises(ConnectionClosed, match="1009"):
            socket.recv(timeout=5)


def test_a_failing_inference_is_an_answer_without_a_traceback(bundle: Path) -> None:
    with serving(bundle) as server, connect(url(server)) as socket:
        socket.recv()
        server.policy.chunk = lambda *args: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        socket.send(request_frame(Request(seen(), id=3)))
        assert json.loads(socket.recv(timeout=5)) == {
            "error": "internal", "message": "inference failed; see the server's log", "id": 3,
        }  # fmt: skip


def test_stopping_answers_what_was_asked(bundle: Path) -> None:
    with serving(bundle, slow_s=1.0) as server, connect(url(server)) as socket:
        stop = server.stop_soon  # type: ignore[attr-defined]
        socket.recv()
        socket.send(request_frame(Request(seen(), id=1)))
        time.sleep(0.3)
        socket.send(request_frame(Request(seen(), id=2)))
        time.sleep(0.2)
        stop()
        answers = [socket.recv(timeout=5) for _ in range(2)]
        assert json.loads(next(a for a in answers if isinstance(a, str)))["error"] == "draining"
        assert msgpack.unpackb(next(a for a in answers if isinstance(a, bytes)))["id"] == 1
        with pytest.raises(ConnectionClosed, match="1001"):
            socket.recv(timeout=5)


def test_health_says_that_it_warms_up_before_it_is_ready(bundle: Path) -> None:
    with serving(bundle) as server:
        assert health(server)["status"] == "ready"
        server.status = "warming"
        with pytest.raises(urllib.error.HTTPError, match="503"):
            health(server)
        with pytest.raises(InvalidStatus, match="503"):
            connect(url(server))
