"""The command line as a user meets it: real processes, a copy of the frame, and a toy command beside it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAME = ("__init__.py", "errors.py", "storage.py", "cli/__init__.py", "cli/main.py", "cli/_help.py", "cli/_extras.py")
TOY = """
import errno, json, sys, time

HELP = "plays"
VERBS = {"show": "prints the configuration", "fail": "raises", "wait": "waits"}


def run(config, verb):
    from omegaconf import OmegaConf

    from s2robot.errors import S2RobotError

    if verb == "show":
        print(json.dumps(OmegaConf.to_container(config)))
    if verb == "wait":
        print("ready", flush=True)
        time.sleep(60)
    if config.error == "bug":
        raise RuntimeError("first line\\nsecond line")
    if config.error == "mistake":
        raise S2RobotError("bad input")
    if config.error == "wrapped":
        from hydra.utils import instantiate

        instantiate({"_target_": "s2robot.cli.toy.refuse"})
    if config.error == "full":
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "some/file")
        except OSError as error:
            raise RuntimeError("writer failed") from error
    if config.error == "module":
        import statsmodels_is_not_here
    if config.error == "status":
        return 2


def refuse():
    from s2robot.errors import S2RobotError

    raise S2RobotError("sizes do not divide")
"""
CONFIGS = {
    "toy.yaml": "defaults: [_self_, {encoder: small}, {experiment: null}]\n"
    "seeds: 10:50  # half-open range of seeds\nout: null\nerror: ''\nnested:\n  depth: 2\n  width: 3  # in cells\n",
    "strict.yaml": "checkpoint: ???  # folder\n",
    "encoder/small.yaml": "_target_: s2robot.toy.Small\nsizes: [112]\nhidden: 3\n",
    "encoder/large.yaml": "# nine wide\n_target_: s2robot.toy.Large\nsizes: [224]\nhidden: 9\n",
    "experiment/demo.yaml": "# @package _global_\ndefaults:\n  - override /encoder: large\nseeds: 1:50\n",
}
MISTAKES = [
    (["tyo"], "unknown command 'tyo'; known: import, strict, toy; did you mean 'toy'?"),
    (["toy", "shwo"], "unknown verb of toy 'shwo'; known: fail, show, wait; did you mean 'show'?"),
    (["toy"], "toy needs a verb: show, fail, wait"),
    (["toy", "show", "seed=1"], "did you mean 'seeds'?"),
    (["toy", "show", "encodr=large"], "did you mean 'encoder'?"),
    (["toy", "show", "encoder.hiden=1"], "did you mean 'encoder.hidden'?"),
    (["toy", "show", "encoder=larg"], "unknown encoder 'larg'; known: large, small; did you mean 'large'?"),
    (["toy", "show", "encoder=large", "encoder.sise=1"], "did you mean 'encoder.sizes'?"),
    (["toy", "show", "experiment=dem"], "did you mean 'demo'?"),
    (["toy", "show", "out=a=b"], "cannot read 'out=a=b': write key=value"),
    (["toy", "show", "seeds"], "cannot read 'seeds': write key=value"),
    (["toy", "show", "seeds=1:2,3:4"], "Ambiguous value for argument 'seeds=1:2,3:4'"),
    (["toy", "show", "out=${nothing}"], "nothing"),
    (["toy", "show", "--hepl"], "unknown option '--hepl'"),
    (["strict"], "strict needs checkpoint=...; see `s2robot strict --help`"),
    (["import", "a=1"], "import takes no keys, 'a=1' came"),
    (["toy", "fail", "error=mistake"], "error: bad input"),
    (["toy", "fail", "error=wrapped"], "error: sizes do not divide"),
    (["toy", "fail", "error=full"], "disk full while writing some/file"),
    (["toy", "fail", "error=module"], "this command needs statsmodels_is_not_here, which is not installed: pip"),
]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A package of its own, made of the frame, a toy command and small configurations."""
    package = tmp_path_factory.mktemp("frame") / "s2robot"
    for name in FRAME:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "s2robot" / name, package / name)
    (package / "configs").mkdir()
    shutil.copy(ROOT / "configs/__init__.py", package / "configs")
    for name, text in CONFIGS.items():
        (package / "configs" / name).parent.mkdir(exist_ok=True)
        (package / "configs" / name).write_text(text)
    (package / "cli/toy.py").write_text(TOY)
    (package / "cli/import_.py").write_text('HELP = "imports"\nVERBS = {}\ndef run(config, verb): print("imported")\n')
    (package / "cli/strict.py").write_text('HELP = "is strict"\nVERBS = {}\ndef run(config, verb): pass\n')
    return {**os.environ, "PYTHONPATH": str(package.parent)}


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "s2robot.cli.main", *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return call


def shown(result: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert result.returncode == 0, result.stderr
    content: dict[str, object] = json.loads(result.stdout)
    return content


def test_help_lists_every_command_with_its_line(run: Run) -> None:
    result = run("--help")
    assert result.returncode == 0
    assert [line.split() for line in result.stdout.split("commands:\n")[1].splitlines()[:3]] == [
        ["import", "imports"],
        ["strict", "is", "strict"],
        ["toy", "plays"],
    ]


def test_no_command_at_all_shows_the_help_and_counts_as_a_mistake(run: Run) -> None:
    result = run()
    assert result.returncode == 2
    assert "usage: s2robot <command>" in result.stdout


def test_help_of_a_command_shows_verbs_keys_comments_and_choices(run: Run) -> None:
    text = run("toy", "--help").stdout
    assert "show  prints the configuration" in text
    assert "seeds=10:50" in text
    assert "half-open range of seeds" in text
    assert "nested.depth=2" in text
    assert "encoder=small, one of:\n  large  nine wide\n  small\n" in text
    assert re.search(r"nested\.width=3 +in cells", text)
    assert "encoder.hidden=3" in text
    assert "_target_" not in text


def test_help_of_a_command_follows_the_overrides_before_it(run: Run) -> None:
    assert "encoder.hidden=9" in run("toy", "show", "encoder=large", "-h").stdout


def test_help_works_where_a_key_must_still_be_given(run: Run) -> None:
    assert "checkpoint=???  folder" in run("strict", "--help").stdout


def test_version_is_that_of_the_package(run: Run) -> None:
    from s2robot import __version__

    assert run("--version").stdout == f"s2robot {__version__}\n"


def test_a_module_with_a_trailing_underscore_gives_a_command_named_like_a_keyword(run: Run) -> None:
    assert run("import").stdout == "imported\n"


@pytest.mark.parametrize("text", ["20000:20100", "10:50", "1:30", "0:9"])
def test_a_range_of_seeds_arrives_as_the_text_that_was_typed(run: Run, text: str) -> None:
    assert shown(run("toy", "show", f"seeds={text}"))["seeds"] == text


def test_a_range_of_seeds_in_yaml_is_not_read_as_a_base_60_number(run: Run) -> None:
    assert shown(run("toy", "show"))["seeds"] == "10:50"
    assert shown(run("toy", "show", "experiment=demo"))["seeds"] == "1:50"


def test_groups_and_nested_keys_are_overridden_as_in_hydra(run: Run) -> None:
    config = shown(run("toy", "show", "encoder=large", "encoder.hidden=5", "nested.width=4", "+extra=[1,2]"))
    assert config["encoder"] == {"_target_": "s2robot.toy.Large", "sizes": [224], "hidden": 5}
    assert config["nested"] == {"depth": 2, "width": 4}
    assert config["extra"] == [1, 2]


def test_an_own_folder_of_configurations_joins_the_search_path(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine/encoder").mkdir(parents=True)
    (tmp_path / "mine/encoder/tiny.yaml").write_text("sizes: [56]\n")
    config = shown(run("toy", "show", f"hydra.searchpath=[file://{tmp_path}/mine]", "encoder=tiny"))
    assert config["encoder"] == {"sizes": [56]}


def test_nothing_is_written_into_the_working_folder(run: Run, tmp_path: Path) -> None:
    run("toy", "show")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def answers(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str]]:
    """Exit status and stderr of each of MISTAKES, all from one process to save their starts."""
    child = """
import contextlib, io, json, sys
from s2robot.cli.main import main
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as stderr, contextlib.redirect_stdout(io.StringIO()):
        status = main(arguments)
    print(json.dumps([status, stderr.getvalue()]))
"""
    result = subprocess.run(
        [sys.executable, "-c", child],
        input=json.dumps([arguments for arguments, _ in MISTAKES]),
        env=environment,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return [tuple(json.loads(line)) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("index", range(len(MISTAKES)), ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_users_mistake_is_one_line_and_status_2(answers: list[tuple[int, str]], index: int) -> None:
    status, stderr = answers[index]
    assert status == 2, stderr
    assert stderr.count("\n") == 1
    assert MISTAKES[index][1] in stderr


def test_a_mistake_is_told_on_stderr_and_not_on_stdout(run: Run) -> None:
    result = run("toy", "fail", "error=mistake")
    assert (result.returncode, result.stdout, result.stderr) == (2, "", "error: bad input\n")


def test_any_other_failure_is_one_line_and_status_1(run: Run) -> None:
    result = run("toy", "fail", "error=bug")
    assert result.returncode == 1
    assert result.stderr == "error: RuntimeError: first line second line (run again with -v for the traceback)\n"


def test_verbose_adds_the_traceback(run: Run) -> None:
    result = run("toy", "fail", "error=mistake", "-v")
    assert result.returncode == 2
    assert "Traceback" in result.stderr


def test_a_command_may_return_its_own_status(run: Run) -> None:
    assert run("toy", "fail", "error=status").returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_with_status_130_and_say_how_to_go_on(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "s2robot.cli.main", "toy", "wait"]
    pipe = subprocess.PIPE

    def as_in_a_terminal() -> None:  # a test run in the background ignores Ctrl-C, and children inherit that
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    child = subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True, preexec_fn=as_in_a_terminal
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    _, stderr = child.communicate(timeout=20)
    assert child.returncode == 130
    assert stderr == "stopped; everything finished so far is kept: the same command goes on from there\n"


def test_listing_the_real_commands_takes_less_than_a_second_and_imports_nothing_heavy() -> None:
    heavy = {"torch", "mujoco", "zarr", "robosuite", "transformers", "matplotlib", "gymnasium"}
    code = (
        "import sys, time; from s2robot.cli.main import main; main(['--help'])\n"
        f"print(time.process_time(), sorted({heavy!r} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    seconds, loaded = result.stdout.splitlines()[-1].split(" ", 1)
    assert loaded == "[]"
    assert float(seconds) < 1.0  # of processor time, so that a busy machine does not turn it red
