"""Checkpoints: a folder of safetensors files and one manifest with their sha256, written beside and renamed.

`folder/step-00000500/{manifest.json, policy.safetensors, train_state.safetensors}`. Loading runs no code: tensors are
safetensors, the manifest is JSON. The loader walks back to the newest checkpoint whose every file verifies.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from s2robot.errors import DamagedError
from s2robot.progress import say
from s2robot.storage import disk_error, fingerprint, publish_folder, read_json, sha256_file, write_json

MANIFEST, CHECKPOINTS, CHOSEN = "manifest.json", "checkpoints", "chosen.json"


def save_checkpoint(
    folder: Path, step: int, files: Mapping[str, Mapping[str, Tensor]], manifest: Mapping[str, Any], keep: int = 2
) -> Path:
    """Write `folder/step-N` in one rename and drop all but the newest `keep`. Returns its path.

    Raises S2RobotError when the disk is full; earlier checkpoints stay.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        sha256 = {}
        for name, tensors in files.items():
            path = partial / f"{name}.safetensors"
            save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path)
            sha256[path.name] = sha256_file(path)
        body = {**manifest, "step": step, "files": sha256}
        (partial / MANIFEST).write_text(json.dumps({**body, "sha256": fingerprint(body)}, indent=2))
        shutil.rmtree(final, ignore_errors=True)
        publish_folder(partial, final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise disk_error(error, final) from error
    steps = _steps(folder)
    beyond = steps[steps.index(final) + 1 :]  # damaged ones, or the run would go on from there
    for old in steps[: -keep - len(beyond)] + beyond:
        shutil.rmtree(old)
    return final


def verify_checkpoint(path: Path) -> dict[str, Any]:
    """The manifest of one checkpoint. Raises DamagedError naming the file that is missing or altered."""
    manifest = read_json(path / MANIFEST)
    body = {k: v for k, v in manifest.items() if k != "sha256"}
    if manifest.get("sha256") != fingerprint(body):
        raise DamagedError(f"{path / MANIFEST} does not match its own checksum")
    for name, expected in manifest["files"].items():
        if not (path / name).exists():
            raise DamagedError(f"{path / name} is missing")
        if sha256_file(path / name) != expected:
            raise DamagedError(f"{path / name} is damaged: its sha256 is not the one in the manifest")
    return manifest


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint below `folder` that verifies, with its manifest; None where there is none.

    Says so when it has to walk past a damaged one.
    """
    for path in reversed(_steps(folder)):
        try:
            return path, verify_checkpoint(path)
        except DamagedError as error:
            say(f"skipping a damaged checkpoint: {error}")
    return None


def open_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint of a run (the chosen one where its recipe chose), of a folder of them, or one itself.

    Raises DamagedError where none verifies.
    """
    chosen = chosen_checkpoint(folder)
    if chosen is not None:
        try:
            return chosen, verify_checkpoint(chosen)
        except DamagedError as error:
            say(f"the chosen checkpoint is damaged, the newest is used instead: {error}")
    if (folder / CHECKPOINTS).is_dir():
        folder = folder / CHECKPOINTS
    if (folder / MANIFEST).exists():
        return folder, verify_checkpoint(folder)
    found = newest_checkpoint(folder)
    if found is None:
        raise DamagedError(f"{folder} holds no intact checkpoint; train one with `s2robot train`")
    return found


def choose_checkpoint(run: Path, path: Path) -> None:
    """Note which checkpoint below `run` counts."""
    body = {"checkpoint": str(path.relative_to(run))}
    write_json(run / CHOSEN, {**body, "sha256": fingerprint(body)})


def chosen_checkpoint(run: Path) -> Path | None:
    """The checkpoint that was noted by `choose_checkpoint`; None where none was, or, saying so, the note is damaged."""
    if not (run / CHOSEN).exists():
        return None
    try:
        body: Any = read_json(run / CHOSEN)
        intact = body.pop("sha256") == fingerprint(body)
    except (DamagedError, AttributeError, KeyError, TypeError):
        intact = False
    if not intact:
        say(f"{run / CHOSEN} is damaged: the newest checkpoint is used until the same `s2robot train` chooses again")
        return None
    return run / str(body["checkpoint"])


def load_tensors(path: Path, name: str, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Tensors of `name`.safetensors of a verified checkpoint."""
    return load_file(path / f"{name}.safetensors", device=str(device))


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-????????"))
