"""Messages over a stream socket between a robot's process and the loop: a length, then a frame of the wire format."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from s2robot.deploy.wire import WireError, pack, unpack

HEADER = struct.Struct("<I")
MOST_BYTES = 1 << 24
READ_BYTES = 1 << 18


class Link:
    """One end. `send` blocks until the kernel has it; `received` yields what has come without waiting."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._buffer = bytearray()

    def send(self, message: Mapping[str, Any]) -> None:
        """Raises OSError once the other end has gone."""
        frame = pack(message)
        self.socket.sendall(HEADER.pack(len(frame)) + frame)

    def received(self) -> Iterator[dict[str, Any]]:
        """Whole messages. Reads once; raises EOFError once the other end has gone, WireError for what is none."""
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise EOFError("the other end has gone")
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            (size,) = HEADER.unpack_from(self._buffer)
            if size > MOST_BYTES:
                raise WireError(f"a message of {size} bytes came; at most {MOST_BYTES} are allowed")
            if len(self._buffer) < HEADER.size + size:
                return
            frame = bytes(self._buffer[HEADER.size : HEADER.size + size])
            del self._buffer[: HEADER.size + size]
            yield unpack(frame, MOST_BYTES)

    def close(self) -> None:
        """Safe to call twice."""
        self.socket.close()
