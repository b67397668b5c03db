"""Files of a Hugging Face repository: from the local cache, or downloaded where there is a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from s2robot.errors import S2RobotError


def is_hub_id(path: str) -> bool:
    """Whether `path` reads like OWNER/NAME, and not like a file or folder."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", path) is not None


def download(repository: str, patterns: Sequence[str]) -> Path:
    """The folder with those files of a repository that match. Raises S2RobotError saying what to place instead."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's, its HTTP client's and its transfer library's, of no common base
        hint = "accept its licence on the hub and log in, or " if isinstance(error, GatedRepoError) else ""
        raise S2RobotError(
            f"{repository!r} is neither a folder here nor a model that the hub gave ({type(error).__name__}); {hint}"
            f"place its {', '.join(patterns)} in a folder and give that folder as path"
        ) from error
