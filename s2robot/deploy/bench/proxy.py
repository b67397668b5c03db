"""A bad network between loop and policy server: messages late, lost, swapped, doubled or cut off, by seed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import WebSocketException

MOST_BYTES = 1 << 24


@dataclass(frozen=True)
class Weather:
    """Shares of messages in either direction that each happens to, and `delay_s` of all."""

    delay_s: float = 0.0
    drop: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    truncate: float = 0.0


class Proxy:
    """Forwards one websocket to another through `weather`."""

    def __init__(self, upstream: str, seed: int) -> None:
        self.upstream, self.weather = upstream, Weather()
        self.port = 0
        self._rng = np.random.default_rng(seed)
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()), daemon=True)

    @property
    def url(self) -> str:
        """For clients."""
        return f"ws://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Proxy]:
        """For as long as the block runs."""
        self._thread.start()
        self._ready.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(5)

    async def _run(self) -> None:
        async with serve(self._serve, "127.0.0.1", 0, max_size=MOST_BYTES, compression=None) as server:
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._stop.wait()

    async def _serve(self, client: ServerConnection) -> None:
        with contextlib.suppress(WebSocketException, OSError, TimeoutError):
            async with connect(
                self.upstream, max_size=MOST_BYTES, compression=None, open_timeout=3, proxy=None
            ) as server:
                pumps = [asyncio.create_task(self._pump(*ends)) for ends in ((client, server), (server, client))]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, source: ServerConnection, sink: ServerConnection) -> None:
        first, held = True, None  # the first frame says who the server is: a bad one is the handshake's business
        async for message in source:
            weather, chance = self.weather, self._rng.random(4)
            await asyncio.sleep(weather.delay_s)
            if not first and chance[0] < weather.drop:
                continue
            if not first and chance[1] < weather.truncate:
                message = message[: int(len(message) * self._rng.random())]
            if not first and held is None and chance[2] < weather.reorder:
                held = message
                continue
            await sink.send(message)
            if not first and chance[3] < weather.duplicate:
                await sink.send(message)
            if held is not None:
                await sink.send(held)
                held = None
            first = False
