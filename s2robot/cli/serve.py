"""`s2robot serve`: a bundle behind a websocket, as the field's clients speak it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HELP = "serves a bundle over a websocket (openpi-client's protocol), to one client at a time"
VERBS: dict[str, str] = {}


def run(config: Any, verb: str) -> int | None:
    """Runs until SIGTERM or Ctrl-C, then answers what was asked before."""
    import asyncio

    from s2robot.deploy.runtime import BundlePolicy
    from s2robot.deploy.server import Listen, PolicyServer
    from s2robot.deploy.token import read_token

    listen = Listen(str(config.host), int(config.port), read_token(config.token_file))
    policy = BundlePolicy(Path(config.bundle), config.device, int(config.threads))

    async def serve() -> None:
        await PolicyServer(policy, listen).run()

    asyncio.run(serve())
    return None
