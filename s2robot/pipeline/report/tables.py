"""The report in words: one set of cells, shown as a terminal table, as Markdown and (by html.py) as HTML."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from s2robot.pipeline.report.records import SUBJECTS

KINDS = ("missed", "other", "open")  # of failures
BOLD, RESET = "\033[1m", "\033[0m"


@dataclass(frozen=True)
class Table:
    """Cells as text. The first column is aligned left, the others (figures) right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def title(report: Mapping[str, Any]) -> str:
    """What was compared, on what: "s2, large, base on lift and pick_cube"."""
    arms = dict.fromkeys(arm["name"] for task in report["tasks"].values() for arm in task["arms"])
    return f"{', '.join(arms)} on {' and '.join(report['tasks'])}"


def task_heading(name: str, task: Mapping[str, Any]) -> str:
    """One task's rollouts: how many initial states, from which seeds, with how many training seeds."""
    runs = {len(arm["runs"]) for arm in task["arms"]}
    count = "-".join(str(n) for n in sorted({min(runs), max(runs)}))
    plural = "" if runs == {1} else "s"
    kind = "validation" if task["validation"] else "test"
    return f"{name}: {task['states']} initial states ({kind} seeds {task['seeds']}), {count} training seed{plural}"


def match_sentence(report: Mapping[str, Any]) -> str:
    """How the compute of the larger encoder compares with that of s2."""
    ratio = report["match_ratio"]
    if ratio is None:
        return "No matched pair of encoders was compared."
    return f"Compute of large over that of s2: {ratio:.3f} (GMAC per image; 1 MAC = 2 FLOPs)."


def arm_table(task: Mapping[str, Any]) -> Table:
    """Cost and success of each arm of a task."""
    header = (
        "arm", "success", "rate %", "95 % interval", "sizes px", "GMAC/image", "/decision", "params M", "p50 ms",
        "p95 ms", "policy ms", "peak MB", "frames/s", "train s", "seam", "missed/other/open",
    )  # fmt: skip
    return Table(header, tuple(_arm_cells(arm) for arm in task["arms"]))


def pair_table(task: Mapping[str, Any]) -> Table:
    """Paired differences a - b in percentage points. The contrasts of the experiment come first."""
    header = ("a - b", "n", "diff", "95 % interval", "only a", "only b", "McNemar p", "detectable")
    return Table(header, tuple(_pair_cells(pair) for pair in task["pairs"]))


def task_tables(task: Mapping[str, Any]) -> list[tuple[str, Table]]:
    """(heading, table) of what a task shows; a single arm has no pairs."""
    shown = [("Cost and success", arm_table(task)), ("Paired differences", pair_table(task))]
    return [(heading, table) for heading, table in shown if table.rows]


def verdicts(task: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(contrasts, sentence) for the contrasts of S2's arms, or for all where there is none; each sentence once."""
    sentences: dict[str, list[str]] = {}
    for pair in [pair for pair in task["pairs"] if pair["a"] in SUBJECTS] or task["pairs"]:
        sentences.setdefault(pair["verdict"], []).append(f"{pair['a']} - {pair['b']}")
    return [(", ".join(pairs), sentence) for sentence, pairs in sentences.items()]


def notes(report: Mapping[str, Any]) -> list[str]:
    """How the figures were made, as far as this report needs it."""
    several = any(len(arm["runs"]) > 1 for task in report["tasks"].values() for arm in task["arms"])
    lines = [
        "Success: rollouts that ended in success, with the Wilson 95 % interval"
        + ("; it pools training seeds as if they were episodes, so judge arms by the differences." if several else "."),
        "n: initial states. only a, only b: those that one arm alone solved. McNemar p: exact, two-sided"
        + (", between the checkpoints of the first training seed." if several else ", between these two checkpoints."),
        "diff: percentage points, same initial states for both arms; its interval is "
        + (
            "a two-way bootstrap over training seeds and initial states."
            if several
            else "the adjusted Wald interval of Bonett and Price (2012); another training run may reverse it."
        ),
        "detectable: the smallest true difference, in points, that would be found with 80 % power at alpha 0.05. "
        "It takes the observed discordance, or the best case where no episode was discordant.",
        "GMAC: 10^9 multiply-accumulates, per image of the encoder, per decision of encoder and policy. params: of "
        "both. p50, p95: latency of one decision at batch 1. peak: memory of a process that does nothing else, "
        "libraries included. frames/s: of encoding. Equal MACs are not equal milliseconds.",
        "seam: how far a chunk's first action lies from what the chunk before had planned for that tick (mean absolute "
        "difference, normalised actions). missed/other/open: failures by where the gripper closed nearest to any "
        "object: at the named one, at another, or never.",
        _setup_note(report["setup"]),
        *_machine_notes(report),
        *_precision_notes(report),
    ]
    trained = sorted(
        {arm["name"] for task in report["tasks"].values() for arm in task["arms"] if arm["encoder"] == "pixels"}
    )
    if trained:
        lines.append(
            f"Vision is trained from pixels, not frozen, in {', '.join(trained)}: an upper line, not an arm of the "
            "comparison; compute is not matched, its GMAC stand under /decision, and nothing of it is cached."
        )
    contents = [report["setup"], *report["setup"].get("own", {}).values()]
    told = sorted({content["policy"]["aux_weight"] for content in contents if content["policy"].get("aux_weight")})
    if told:
        lines.append(
            "Privileged: in training, policies also predicted the named object's position (aux_weight="
            f"{', '.join(map(str, told))}), which only a simulator knows."
        )
    return lines


def _setup_note(setup: Mapping[str, Any]) -> str:
    cameras, own = ", ".join(setup["cameras"]), setup.get("own", {})
    shared = f"All arms: {setup['demonstrations']} demonstrations at {setup['frame_px']} px from {cameras}"
    if not own:
        return f"{shared}, {_policy_note(setup)}; report.json has every setting."
    parts = [f"{name}: {_policy_note(content)}" for name, content in own.items()]
    return f"{shared}. {'; '.join([*parts, 'others: ' + _policy_note(setup)])}; report.json has every setting."


def _machine_notes(report: Mapping[str, Any]) -> list[str]:
    """What each arm was timed on, its latency at least; told apart where machines differ."""
    timed = _arms_by(report, lambda arm: arm.get("machine") or "a machine not recorded")
    if len(timed) == 1:
        return [f"Times were measured on {next(iter(timed))}."]
    first = "Times and memory were measured on machines that differ and compare only within one."
    return [" ".join([first, *(f"{machine}: {arms}." for machine, arms in timed.items())])]


def _precision_notes(report: Mapping[str, Any]) -> list[str]:
    """Told where arms differ in what their encoder computes in: their difference is then one of precision too."""
    by = _arms_by(report, _precision)
    if len(by) < 2:
        return []
    first = "Frozen features were computed in precisions that differ, so a difference between arms may lie in that too."
    return [" ".join([first, *(f"{precision}: {arms}." for precision, arms in by.items())])]


def _precision(arm: Mapping[str, Any]) -> str | None:
    frozen = arm["sizes"] and arm["encoder"] != "pixels"
    return arm.get("dtype") or "a precision not recorded" if frozen else None


def _arms_by(report: Mapping[str, Any], what: Callable[[Mapping[str, Any]], str | None]) -> dict[str, str]:
    """Value -> the arms of every task that have it, in words; arms whose value is None are left out."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, task in report["tasks"].items():
        for arm in task["arms"]:
            if (value := what(arm)) is not None:
                found.setdefault(value, {}).setdefault(name, []).append(arm["name"])
    return {
        value: "; ".join(f"{task} ({', '.join(arms)})" for task, arms in tasks.items())
        for value, tasks in found.items()
    }


def _policy_note(content: Mapping[str, Any]) -> str:
    policy, recipe = content["policy"], content["recipe"]
    stride = f", every {recipe['stride']} steps of a demonstration" if recipe.get("stride", 1) > 1 else ""
    views = f"{recipe['views']} shifted view{'s' * (recipe['views'] > 1)}" if recipe["views"] else "plain frames"
    return (
        f"{policy['name']} ({policy['execute']} of {policy['chunk']} predicted actions executed), {recipe['epochs']} "
        f"epochs of batches of {recipe['batch_size']} at learning rate {recipe['lr']:g}, {views}{stride}"
    )


def to_markdown(table: Table) -> str:
    """A GitHub-flavoured Markdown table, padded so that it also reads as text."""
    rule = tuple("---" if i == 0 else "--:" for i in range(len(table.header)))
    widths = _widths((table.header, rule, *table.rows))
    dashes = "| " + " | ".join(_rule(i, width) for i, width in enumerate(widths)) + " |"
    lines = ["| " + " | ".join(_aligned(row, widths)) + " |" for row in (table.header, *table.rows)]
    return "\n".join([lines[0], dashes, *lines[1:]])


def to_text(table: Table) -> str:
    """An aligned table for a terminal, without markup."""
    widths = _widths((table.header, *table.rows))
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in (table.header, *table.rows)]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def to_document(report: Mapping[str, Any], images: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """report.md. `images[task]` are (caption, path relative to the report) of what is shown under the tables."""
    parts = [f"# {title(report)}", f"```\n{report['command']}\n```", match_sentence(report)]
    for name, task in report["tasks"].items():
        parts += [f"## {task_heading(name, task)}", *(to_markdown(table) for _, table in task_tables(task))]
        parts.append("\n".join(f"- **{pair}**: {sentence}" for pair, sentence in verdicts(task)))
        parts += [
            f"![{caption}]({path})" if path.endswith(".png") else f"[{caption}]({path})"
            for caption, path in images.get(name, ())
        ]
    parts += ["## How to read this", "\n".join(f"- {line}" for line in notes(report))]
    parts += ["## Time and versions", to_markdown(stage_table(report))]
    parts.append(", ".join(f"{package} {version}" for package, version in report["versions"].items()))
    return "\n\n".join(part for part in parts if part) + "\n"


def stage_table(report: Mapping[str, Any]) -> Table:
    """Seconds per stage of the run."""
    return Table(("stage", "s"), tuple((stage, _number(s, ".1f")) for stage, s in report["stages_s"].items()))


def print_report(report: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Print tables and verdicts, headings in bold on a terminal and plain text elsewhere."""
    out = sys.stdout if file is None else file
    bold = (lambda text: f"{BOLD}{text}{RESET}") if out.isatty() else str
    print(bold(title(report)), report["command"], match_sentence(report), sep="\n", file=out)
    for name, task in report["tasks"].items():
        tables = "\n\n".join(to_text(table) for _, table in task_tables(task))
        print("", bold(task_heading(name, task)), "", tables, "", sep="\n", file=out)
        for pair, sentence in verdicts(task):
            print(f"{bold(pair)}: {sentence}", file=out)


def _arm_cells(arm: Mapping[str, Any]) -> tuple[str, ...]:
    success, latency = arm["success"], arm["latency_ms"]
    low, high = success["wilson95"]
    train_s = [run["train_s"] for run in arm["runs"] if run["train_s"] is not None]
    seams = [run["seam"] for run in arm["runs"] if run.get("seam") is not None]
    failed = [run for run in arm["runs"] if run.get("failures")]
    return (
        arm["name"],
        f"{success['k']}/{success['n']}",
        f"{100 * success['rate']:.1f}",
        f"{100 * low:.1f} to {100 * high:.1f}",
        ", ".join(str(size) for size in arm["sizes"]) or "-",
        _number(arm["gmac_image"], ".2f"),
        _number(arm["gmac_decision"], ".2f"),
        _number(arm["params"] / 1e6, ".2f"),
        _number(latency["p50"], ".1f"),
        _number(latency["p95"], ".1f"),
        _number(arm["policy_ms"]["1"], ".1f"),
        _number(arm["peak_mb"], ".0f"),
        _number(arm["encode_frames_s"], ".0f"),
        _number(sum(train_s) / len(train_s) if train_s else None, ".0f"),
        _number(sum(seams) / len(seams) if seams else None, ".3f"),
        "/".join(str(sum(run["failures"][kind] for run in failed)) for kind in KINDS) if failed else "-",
    )


def _pair_cells(pair: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = pair["diff95"]
    detectable = None if pair["detectable"] is None else 100 * pair["detectable"]
    return (
        f"{pair['a']} - {pair['b']}",
        str(pair["n"]),
        f"{100 * pair['diff']:+.1f}",
        f"{100 * low:+.1f} to {100 * high:+.1f}",
        str(pair["a_only"]),
        str(pair["b_only"]),
        "< 0.001" if pair["mcnemar_p"] < 0.001 else f"{pair['mcnemar_p']:.3f}",
        _number(detectable, ".1f"),
    )


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]


def _rule(column: int, width: int) -> str:
    return "-" * width if column == 0 else "-" * (width - 1) + ":"
