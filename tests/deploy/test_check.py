"""An export is held against the frames that travel with it: a computer that computes otherwise is noticed."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from s2robot.cli.main import main
from s2robot.deploy.bundle import MANIFEST
from s2robot.deploy.check import CHECK, Check
from s2robot.deploy.runtime import BundlePolicy
from s2robot.errors import DamagedError, MismatchError
from s2robot.storage import fingerprint, sha256_file, write_json


def elsewhere(bundle: Path, copy: Path, by: float) -> Path:
    """The bundle as if torch's tokens had been others by that share: as a computer that computes otherwise sees it."""
    shutil.copytree(bundle, copy)
    check = Check.read(copy / CHECK)
    Check(check.frames, {c: tokens * (1 + by) for c, tokens in check.tokens.items()}, check.allowed).write(copy / CHECK)
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"][CHECK] = sha256_file(copy / CHECK)
    del manifest["sha256"]
    write_json(copy / MANIFEST, manifest | {"sha256": fingerprint(manifest)})
    return copy


def test_a_bundle_that_computes_as_it_should_is_taken(bundle: Path, tmp_path: Path) -> None:
    BundlePolicy(bundle, "cpu", 1)
    BundlePolicy(elsewhere(bundle, tmp_path / "little", 1e-6), "cpu", 1)


def test_other_features_than_at_export_are_refused_before_anything_is_decided(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = elsewhere(bundle, tmp_path / "strange", 1e-3)
    said = (
        r"strange computes other features on this computer than the checkpoint: relative rms 0\.001 .* allowed 0\.0001"
    )
    with pytest.raises(MismatchError, match=said):
        BundlePolicy(strange, "cpu", 1)
    assert BundlePolicy(strange, "cpu", 1, check=False).cameras == ("front",)
    assert main(["serve", f"bundle={strange}", "port=0"]) == 2
    assert "computes other features on this computer" in capsys.readouterr().err


def test_features_that_are_no_numbers_are_refused(bundle: Path) -> None:
    check = Check.read(bundle / CHECK)
    with pytest.raises(MismatchError, match="relative rms nan"):
        check.require(lambda camera, frame: np.full_like(check.tokens[camera][0], np.nan), "here")


def _npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


NO_TOKENS = {"frames/front": np.zeros(1), "allowed": np.ones(())}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"\x93NUMPY",
        _npz(),
        _npz(allowed=np.zeros(2)),
        _npz(allowed=np.array("a")),
        _npz(**NO_TOKENS),
    ],
)
def test_a_file_that_holds_no_check_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CHECK).write_bytes(content)
    with pytest.raises(DamagedError, match=r"check\.npz holds no frames to check with; export it again"):
        Check.read(tmp_path / CHECK)


def test_a_check_is_never_unpickled(tmp_path: Path) -> None:
    with open(tmp_path / CHECK, "wb") as file:
        np.savez(file, allowed=np.array([{}], dtype=object))
    with pytest.raises(DamagedError, match="holds no frames"):
        Check.read(tmp_path / CHECK)
