"""The layers of the package, the size of its rooms, and what code may not do, read off the syntax trees."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.meta.conftest import Source

# Imports go from a later layer to an earlier one, or stay inside a room. "" is the single modules of s2robot itself.
LAYERS = [{""}, {"configs"}, {"encoders", "data"}, {"envs", "policies"}, {"pipeline"}, {"deploy"}, {"cli"}]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
LONGEST_FILE, LONG_FUNCTION, LONGEST_FUNCTION = 350, 60, 90


def room_of(module: str, package: list[Source]) -> str:
    """`s2robot.data.group` lives in `data`, `s2robot.types` in ""."""
    parts = module.split(".")
    is_room = len(parts) > 1 and any(s.module.startswith(f"s2robot.{parts[1]}.") for s in package)
    return parts[1] if is_room or (len(parts) > 1 and parts[1] in RANK) else ""


def imported(source: Source, nodes: list[ast.stmt] | None = None) -> set[str]:
    """Modules of s2robot that a file imports: anywhere, or only by the given statements."""
    is_package = source.path.name == "__init__.py"
    found: set[str] = set()
    for node in ast.walk(source.tree) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = source.module.split(".")
            base = here[: len(here) - node.level + is_package] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] == "s2robot"}


def test_every_room_has_a_place_among_the_layers(package: list[Source]) -> None:
    rooms = {room_of(source.module, package) for source in package}
    assert rooms <= RANK.keys()
    assert {"encoders", "data", "envs", "policies", "pipeline", "cli"} <= rooms


def test_imports_point_one_way(package: list[Source]) -> None:
    wrong = []
    for source in package:
        room = room_of(source.module, package)
        for target in imported(source):
            there = room_of(target, package)
            if there != room and RANK[there] >= RANK[room]:
                wrong.append(f"{source.module} imports {target}")
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle(package: list[Source]) -> None:
    names = {source.module for source in package}
    graph = {s.module: (imported(s, s.tree.body) & names) - {s.module} for s in package}
    # An import of `package.module` names the package too; that the package is imported first is no circle by itself.
    graph = {m: {t for t in ts if not m.startswith(f"{t}.")} for m, ts in graph.items()}
    while leaves := [module for module, targets in graph.items() if not targets & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert sorted(graph) == []


def test_no_file_is_longer_than_350_lines(programs: list[Source]) -> None:
    lengths = {source.module: len(source.text.splitlines()) for source in programs}
    assert {module: n for module, n in lengths.items() if n > LONGEST_FILE} == {}


def test_functions_are_rarely_longer_than_60_lines(programs: list[Source]) -> None:
    lengths = {
        f"{source.module}.{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for source in programs
        for function in source.functions()
    }
    long = {name: n for name, n in lengths.items() if n > LONG_FUNCTION}
    assert len(long) <= 0.02 * len(lengths), long
    assert {name: n for name, n in long.items() if n > LONGEST_FUNCTION} == {}


def test_there_is_exactly_one_backward_call(programs: list[Source]) -> None:
    places = [s.module for s in programs for name, _ in s.calls() if name.endswith(".backward")]
    assert places == ["s2robot.pipeline.fit"]


def test_loading_runs_no_code(programs: list[Source]) -> None:
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    wrong = []
    for source in programs:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {a.name for a in node.names} | {getattr(node, "module", None) or ""}
                if ast.unparse(node) == "from pickle import UnpicklingError":  # what a refused file raises
                    continue
                wrong += [f"{source.module} imports {n}" for n in names if n.split(".")[0] in forbidden]
        for name, call in source.calls():
            arguments = {k.arg: ast.unparse(k.value) for k in call.keywords}
            if name.endswith("torch.load") and arguments.get("weights_only") != "True":
                wrong.append(f"{source.module}: torch.load without weights_only=True")
            if name in {"eval", "exec", "yaml.load", "yaml.unsafe_load"} or arguments.get("allow_pickle") == "True":
                wrong.append(f"{source.module}: {ast.unparse(call)}")
    assert wrong == []


def test_no_error_is_swallowed_and_nothing_is_left_unwritten(programs: list[Source]) -> None:
    wrong = []
    for source in programs:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                wrong.append(f"{source.module}:{node.lineno} bare except")
            if isinstance(node, ast.Name) and node.id == "NotImplementedError":
                wrong.append(f"{source.module}:{node.lineno} NotImplementedError")
    assert wrong == []


def test_every_pytest_raises_says_which_message_it_expects(tests: list[Source]) -> None:
    wrong = [
        f"{source.module}:{call.lineno}"
        for source in tests
        for name, call in source.calls()
        if name == "pytest.raises" and "match" not in {k.arg for k in call.keywords}
    ]
    assert wrong == []
