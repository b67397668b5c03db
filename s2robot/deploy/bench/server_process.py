"""A policy server in a process of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s2robot.errors import S2RobotError

START_S, STOP_S = 60.0, 10.0


class ServerProcess:
    """`s2robot serve` on loopback. `start` again after `kill`: the port stays the same."""

    def __init__(self, bundle: Path, threads: int = 0, port: int | None = None) -> None:
        self.port = port or free_port()
        self._command = [
            sys.executable, "-m", "s2robot.cli.main", "serve", f"bundle={bundle}", f"port={self.port}",
            f"threads={threads}",
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For clients."""
        return f"ws://127.0.0.1:{self.port}"

    def start(self, wait: bool = True) -> None:
        """Raises S2RobotError where it does not become ready."""
        self.process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        deadline_s = time.monotonic() + START_S
        while wait and self.health().get("status") != "ready":
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                raise S2RobotError(f"the policy server did not become ready: {' '.join(self._command)}")
            time.sleep(0.05)

    def health(self) -> dict[str, Any]:
        """What its health endpoint says; empty where it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=1) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except (OSError, urllib.error.URLError, ValueError):
            return {}

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT, SIGKILL ..."""
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()

    def stop(self) -> None:
        """As a person would."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def serving(bundle: Path, threads: int = 0) -> Iterator[ServerProcess]:
    """A server for as long as the block runs."""
    server = ServerProcess(bundle, threads)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """A port on loopback that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
