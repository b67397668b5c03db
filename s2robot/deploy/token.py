"""The secret that a client shows to a policy server: from a file, since command lines are seen by everyone."""

from __future__ import annotations

from pathlib import Path

from s2robot.errors import S2RobotError

MOST_BYTES = 4096


def read_token(path: str | None) -> str | None:
    """The token in a file, without the blanks around it; None for no file. Raises S2RobotError where there is none."""
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            token = file.read(MOST_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise S2RobotError(f"token_file={path} cannot be read ({error})") from error
    if not token:
        raise S2RobotError(f"token_file={path} is empty; `openssl rand -hex 32 > {Path(path)}` makes a token")
    return token
