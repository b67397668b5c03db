"""`s2robot <command> [<verb>] key=value ...`: finds the command, composes its configuration, runs it.

A command is a module of this package with `HELP` (one line), `VERBS` (verb -> one line, may be empty) and
`run(config, verb)`. `POSITIONAL`, where it is there, names the key that a bare word stands for. Keys and their defaults
are `configs/<command>.yaml`, or `configs/<command>_<verb>.yaml`. Command modules import torch, mujoco and zarr inside
`run` only, so that listing them stays quick and works where those are not installed.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import pkgutil
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import s2robot.cli
from s2robot import __version__
from s2robot.errors import S2RobotError, unknown_name

OK, FAILED, USER_MISTAKE, INTERRUPTED = 0, 1, 2, 130
FLAGS = {"-h": "help", "--help": "help", "-v": "verbose", "--verbose": "verbose", "--version": "version"}


class Command(Protocol):
    """What a command module defines. `verb` is "" for a command without verbs; `run` may return an exit status."""

    HELP: str
    VERBS: dict[str, str]

    def run(self, config: Any, verb: str) -> int | None:
        """Do it; `config` is composed from `configs/<command>.yaml`. None is exit status 0."""
        ...


def command_names() -> list[str]:
    """Every command, sorted. The module of `import` is `import_`, since the word itself is Python's."""
    modules = {m.name for m in pkgutil.iter_modules(s2robot.cli.__path__)}
    return sorted(name.rstrip("_") for name in modules if name != "main" and not name.startswith("_"))


def load_command(name: str) -> Command:
    """The module of a command. Raises S2RobotError naming the commands."""
    if name not in command_names():
        raise unknown_name("command", name, command_names())
    modules = {m.name for m in pkgutil.iter_modules(s2robot.cli.__path__)}
    return cast(Command, importlib.import_module(f"s2robot.cli.{name if name in modules else name + '_'}"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    0: done. 2: the user's mistake, one line on stderr. 130: stopped by Ctrl-C or SIGTERM. 1: anything else.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbose = bool({"-v", "--verbose"}.intersection(arguments))
    try:
        with _sigterm_like_ctrl_c():
            return _dispatch(arguments)
    except KeyboardInterrupt:
        print("stopped; everything finished so far is kept: the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `s2robot --help | head`: the reader has gone, there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if verbose:
            traceback.print_exc()
        line, status = describe_error(error)
        print(f"error: {line}", file=sys.stderr)
        return status


def _dispatch(arguments: list[str]) -> int:
    from s2robot.cli import _help

    flags, words = split_arguments(arguments)
    if "version" in flags:
        print(f"s2robot {__version__}")
        return OK
    if not words:
        print(_help.overview({name: load_command(name).HELP for name in command_names()}))
        return OK if "help" in flags else USER_MISTAKE
    name, *rest = words
    command = load_command(name)
    verb = rest.pop(0) if rest and command.VERBS and _is_verb(rest[0]) else ""
    if verb and verb not in command.VERBS:
        raise unknown_name(f"verb of {name}", verb, command.VERBS)
    if "help" in flags:
        print(_help.of_command(name, command.HELP, command.VERBS, verb, rest))
        return OK
    if command.VERBS and not verb:
        raise S2RobotError(f"{name} needs a verb: {', '.join(command.VERBS)}; see `s2robot {name} --help`")
    return command.run(_configuration(name, verb, _named(command, rest)), verb) or OK


def split_arguments(arguments: Sequence[str]) -> tuple[set[str], list[str]]:
    """Flags, wherever they stand, and the words. Raises S2RobotError for an unknown flag."""
    flags = {a for a in arguments if a.startswith("-")}
    for flag in flags - FLAGS.keys():
        raise unknown_name("option", flag, FLAGS)
    return {FLAGS[f] for f in flags}, [a for a in arguments if not a.startswith("-")]


def _named(command: Command, words: Sequence[str]) -> list[str]:
    """`data report run.mcap` means `data report store=run.mcap`."""
    key = getattr(command, "POSITIONAL", None)
    if key is None or not words or "=" in words[0]:
        return list(words)
    return [f"{key}={words[0]}", *words[1:]]


def _is_verb(word: str) -> bool:
    return "=" not in word and not word.startswith(("+", "~"))


def _configuration(name: str, verb: str, overrides: Sequence[str]) -> Any:
    from s2robot import configs

    file = configs.file_of(name, verb)
    if file:
        return configs.compose(file, overrides)
    if overrides:
        raise S2RobotError(f"{name} takes no keys, {overrides[0]!r} came; run `s2robot {name}`")
    return {}


def describe_error(error: Exception) -> tuple[str, int]:
    """One line for the user and the exit status. A wrapper's cause counts: Hydra wraps what a constructor raises."""
    from s2robot.storage import disk_error

    chain = list(_causes(error))
    for link in chain:
        if isinstance(link, S2RobotError):
            return _one_line(link), USER_MISTAKE
    for link in chain:
        if (isinstance(link, OSError) and link.errno == errno.ENOSPC) or "No space left on device" in str(link):
            where = getattr(link, "filename", None) or os.getcwd()
            return _one_line(disk_error(OSError(errno.ENOSPC, ""), Path(os.fsdecode(where)))), USER_MISTAKE
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("s2robot"):
        from s2robot.cli._extras import remedy

        return f"this command needs {error.name}, which is not installed: {remedy(error.name)}", USER_MISTAKE
    return f"{type(error).__name__}: {_one_line(error)} (run again with -v for the traceback)", FAILED


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


@contextlib.contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """A scheduler's SIGTERM takes the same path as Ctrl-C, so that locks are released and workers end."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: signals are the caller's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
