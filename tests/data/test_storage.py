"""Files are whole or absent, also when the disk says no."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from s2robot.errors import S2RobotError
from s2robot.storage import append_line, cut_torn_line, write_atomic


def in_a_process_with_small_files(limit: int, work: Callable[[Path], None], path: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        work(path)

    worker = multiprocessing.get_context("fork").Process(target=limited)
    worker.start()
    worker.join(timeout=60)
    assert worker.exitcode == 0


def append_too_much(path: Path) -> None:
    with pytest.raises(S2RobotError, match=r"file-size limit reached while writing .*lines; raise it"):
        append_line(path, "b" * 50)


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    append_line(tmp_path / "lines", "a" * 80)
    in_a_process_with_small_files(100, append_too_much, tmp_path / "lines")
    assert (tmp_path / "lines").read_text() == "a" * 80 + "\n"


def overwrite_with_too_much(path: Path) -> None:
    with pytest.raises(S2RobotError, match=r"file-size limit reached while writing .*file; raise it"):
        write_atomic(path, b"b" * 101)


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", b"old")
    in_a_process_with_small_files(100, overwrite_with_too_much, tmp_path / "file")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b""), (b"one\n", b"one\n"), (b"one\ntw", b"one\n"), (b"on", b""), (b"one\n\n", b"one\n\n")],
)
def test_only_what_follows_the_last_newline_is_cut(tmp_path: Path, before: bytes, after: bytes) -> None:
    (tmp_path / "lines").write_bytes(before)
    cut_torn_line(tmp_path / "lines")
    assert (tmp_path / "lines").read_bytes() == after


def test_cutting_a_file_that_is_not_there_makes_none(tmp_path: Path) -> None:
    cut_torn_line(tmp_path / "lines")
    assert list(tmp_path.iterdir()) == []
