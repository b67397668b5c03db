"""A policy that decides elsewhere: the client's side of the policy server.

Dims: k chunk, a action.
"""

from __future__ import annotations

import contextlib
from typing import Any

from websockets.exceptions import InvalidHandshake, WebSocketException
from websockets.sync.client import ClientConnection, connect

from s2robot.deploy.wire import LONGEST_REPLY, Hello, Request, WireError, read_hello, read_reply, request_frame
from s2robot.errors import S2RobotError

CONNECT_S = 5.0


class ServerLost(S2RobotError):
    """The server cannot be reached, or does not answer in time. It may come back."""


class RemotePolicy:
    """One connection to a policy server; it is the lease. Not thread-safe: one thread asks."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url, self._token = url, token
        self._connection: ClientConnection | None = None
        self._open = contextlib.ExitStack()

    def connect(self) -> Hello:
        """Take the lease. Raises ServerLost where nobody answers, S2RobotError where the server refuses."""
        self.close()
        headers = {"Authorization": f"Api-Key {self._token}"} if self._token else None
        try:
            opening = connect(
                self.url, additional_headers=headers, compression=None, max_size=LONGEST_REPLY, open_timeout=CONNECT_S,
                close_timeout=0.2, proxy=None,
            )  # fmt: skip
            self._connection = self._open.enter_context(opening)
            return read_hello(self._connection.recv(timeout=CONNECT_S))
        except InvalidHandshake as error:
            raise ServerLost(f"{self.url} refuses: {error}") from error
        except WireError:
            self.close()
            raise
        except (OSError, TimeoutError, WebSocketException) as error:
            self.close()
            raise ServerLost(f"no policy server answers at {self.url} ({error})") from error

    def decide(self, request: Request, timeout_s: float) -> Any:
        """The chunk (k, a) for a request, unchecked. Raises ServerLost, S2RobotError where the server answers an error.

        An answer to an older request is passed over: it belongs to a picture of the past.
        """
        if self._connection is None:
            raise ServerLost(f"not connected to {self.url}")
        try:
            self._connection.send(request_frame(request))
            while True:
                actions, id = read_reply(self._connection.recv(timeout=timeout_s))
                if id == request.id:
                    return actions
        except TimeoutError as error:
            self.close()
            raise ServerLost(f"{self.url} did not answer within {timeout_s:g} s") from error
        except WireError:
            self.close()
            raise
        except (OSError, WebSocketException) as error:
            self.close()
            raise ServerLost(f"{self.url} has gone ({error})") from error

    def close(self) -> None:
        """Give the lease back. Safe to call twice."""
        self._connection = None
        with contextlib.suppress(OSError, WebSocketException):
            self._open.close()
