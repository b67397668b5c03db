"""Reports from small records: the schema, pairing, determinism, and pages and plots that can be read back."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2robot.errors import DamagedError, MismatchError, S2RobotError
from s2robot.pipeline.report import plots
from s2robot.pipeline.report.join import join_reports, read_report
from s2robot.pipeline.report.outcomes import Outcome, aggregate, read_outcomes, write_outcomes
from s2robot.pipeline.report.plots import DARK, LIGHT, _apart, _clusters, _curve, learning_curves, success_against_gmac
from s2robot.pipeline.report.records import ArmRecord, CurvePoint, RunRecord, build_report, run_rows
from s2robot.pipeline.report.tables import (
    arm_table,
    notes,
    print_report,
    task_heading,
    to_document,
    to_markdown,
    to_text,
    verdicts,
)
from s2robot.pipeline.report.videos import side_by_side
from s2robot.pipeline.report.write import write_report

GMAC = {"base": 0.28, "s2": 1.42, "s2_unpooled": 1.42, "large": 1.44, "fine": 1.47, "random": 1.42, "blind": 0.0}
COMMAND = "s2robot compare task=lift seeds=20000:20010"


def outcome(arm: str, seed: int, success: bool, train_seed: int = 0, state: str = "") -> Outcome:
    sha = state or f"{seed:064x}"
    return Outcome(
        "lift", arm, train_seed, seed, sha, success, 40 if success else 200, "success" if success else "horizon"
    )


def arm(name: str, successes: list[list[int]], curve: bool = True) -> ArmRecord:
    """An arm with one run per row of `successes`, on seeds 20000, 20001, ..."""
    points = [CurvePoint(step, 1 / step, 1.2 / step if step % 20 == 0 else None) for step in (10, 20, 30, 40)]
    runs = [
        RunRecord(
            train_seed,
            30.0 + train_seed,
            [outcome(name, 20000 + i, bool(s), train_seed) for i, s in enumerate(row)],
            points if curve else (),
        )
        for train_seed, row in enumerate(successes)
    ]
    blind = GMAC[name] == 0
    return ArmRecord(
        name, "none" if blind else "vit_tiny", () if blind else (112, 224), None if blind else "ab" * 32,
        None if blind else "float32", GMAC[name], 2 * GMAC[name], 5_700_000, "bc_mlp", 480_000, {"1": 0.8, "50": 4.0},
        9.7, 12.1, None if blind else 221.5, "a processor", None if blind else 131.0, runs,
    )  # fmt: skip


SETUP = {
    "demonstrations": 150,
    "frame_px": 224,
    "cameras": ["agentview"],
    "policy": {"name": "bc_mlp", "chunk": 8, "execute": 4, "aux_weight": 0.0},
    "recipe": {"epochs": 40, "batch_size": 256, "lr": 2e-3, "views": 1},
}


def report(*arms: ArmRecord, **changes: object) -> dict:
    kwargs = {"stages_s": {"train": 61.5}, "command": COMMAND, "versions": {"torch": "2.13.0"}, "setup": SETUP}
    kwargs |= changes
    return build_report({"lift": arms}, **kwargs)


def two_arms(curve: bool = False) -> dict:
    large, s2 = [[1, 0, 0, 0, 1, 1, 0, 1, 0, 0]], [[1, 1, 1, 0, 1, 1, 1, 0, 0, 1]]
    return report(arm("large", large, curve), arm("s2", s2, curve))


def frames(count: int, shade: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    return [np.full((*size, 3), shade + 10 * i, np.uint8) for i in range(count)]


def test_outcomes_are_written_sorted_and_read_back_equal(tmp_path):
    outcomes = [outcome(a, seed, seed % 2 == 0, t) for a in ("s2", "base") for t in (1, 0) for seed in (9, 3)]
    write_outcomes(tmp_path / "episodes.jsonl", outcomes)
    first = (tmp_path / "episodes.jsonl").read_bytes()
    assert read_outcomes(tmp_path / "episodes.jsonl") == sorted(outcomes)
    write_outcomes(tmp_path / "episodes.jsonl", reversed(outcomes))
    assert (tmp_path / "episodes.jsonl").read_bytes() == first
    keys = ["task", "arm", "train_seed", "seed", "initial_state_sha256", "success", "steps", "end"]
    assert list(json.loads(first.splitlines()[0])) == keys


def test_outcomes_are_read_sorted_when_the_lines_are_not(tmp_path):
    write_outcomes(tmp_path / "episodes.jsonl", [outcome("s2", seed, True) for seed in (3, 9)])
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    (tmp_path / "episodes.jsonl").write_text("\n".join(reversed(lines)))
    assert [o.seed for o in read_outcomes(tmp_path / "episodes.jsonl")] == [3, 9]


@pytest.mark.parametrize("line", ['{"task": "lift"', '{"task": "lift"}', "[]", None])
def test_a_damaged_outcome_line_is_named(tmp_path, line):
    write_outcomes(tmp_path / "episodes.jsonl", [outcome("s2", 3, True)])
    good = (tmp_path / "episodes.jsonl").read_text()
    bad = good.replace("true", '"yes"') if line is None else line + "\n"
    (tmp_path / "episodes.jsonl").write_text(good + bad)
    with pytest.raises(DamagedError, match=r"line 2 is no outcome .* run `s2robot evaluate` again"):
        read_outcomes(tmp_path / "episodes.jsonl")


def test_a_missing_outcome_file_names_the_command_that_writes_it(tmp_path):
    with pytest.raises(DamagedError, match="does not exist; write it with `s2robot evaluate`"):
        read_outcomes(tmp_path / "episodes.jsonl")


def test_arms_are_lined_up_on_their_states_whatever_the_order():
    lined_up = aggregate(
        [outcome("s2", 7, True), outcome("base", 7, False), outcome("base", 5, True), outcome("s2", 5, False)]
    )
    assert [seed for seed, _ in lined_up["lift"].states] == [5, 7]
    assert lined_up["lift"].success["s2"][0].tolist() == [False, True]
    assert lined_up["lift"].success["base"][0].tolist() == [True, False]


def test_arms_that_met_another_state_under_the_same_seed_are_not_paired():
    with pytest.raises(MismatchError, match=r"'base' .* and 's2' .* seed 5 has initial state 0+ against ffff"):
        aggregate([outcome("base", 5, True), outcome("s2", 5, True, state="f" * 64)])


def test_arms_rolled_out_on_different_seeds_are_not_paired():
    with pytest.raises(MismatchError, match=r"seed 6 has initial state \(no episode\) against"):
        aggregate([outcome("base", 5, True), outcome("s2", 5, True), outcome("s2", 6, True)])


def test_the_same_episode_twice_is_refused():
    with pytest.raises(MismatchError, match="holds seed 5 twice; keep one outcome per episode"):
        aggregate([outcome("base", 5, True), outcome("base", 5, False)])


def test_the_report_holds_every_key_that_scripts_rely_on():
    built = report(arm("s2", [[1, 0]]), arm("blind", [[0, 0]]))
    assert {"tasks", "match_ratio", "stages_s", "versions"} <= set(built)
    record, pair = built["tasks"]["lift"]["arms"][0], built["tasks"]["lift"]["pairs"][0]
    assert {
        "name", "encoder", "sizes", "weights_sha256", "dtype", "gmac_image", "gmac_decision", "params", "latency_ms",
        "peak_mb", "encode_frames_s", "runs", "success",
    } <= set(record)  # fmt: skip
    assert set(record["latency_ms"]) == {"p50", "p95"}
    assert {"train_seed", "train_s", "success"} <= set(record["runs"][0])
    assert set(record["runs"][0]["success"]) == {"k", "n"}
    assert set(record["success"]) == {"k", "n", "rate", "wilson95"}
    assert {"a", "b", "n", "diff", "a_only", "b_only", "mcnemar_p", "detectable"} <= set(pair)
    json.dumps(built, allow_nan=False)


def test_counts_and_differences_are_those_of_the_outcomes():
    built = two_arms()["tasks"]["lift"]
    large, s2 = built["arms"]
    assert (large["success"]["k"], s2["success"]["k"], s2["success"]["n"]) == (4, 7, 10)
    (pair,) = built["pairs"]
    assert (pair["a"], pair["b"], pair["n"], pair["a_only"], pair["b_only"]) == ("s2", "large", 10, 4, 1)
    assert (pair["diff"], pair["mcnemar_p"]) == pytest.approx((0.3, 0.375))
    assert pair["verdict"] == "no claim: one training seed [compute matched: 1.42 against 1.44 GMAC per image]"
    assert built["seeds"] == "20000:20010"
    assert "(test seeds 20000:20010)" in task_heading("lift", built)
    assert "(validation seeds 20000:20010)" in task_heading("lift", built | {"validation": True})


def test_contrasts_of_the_experiment_come_first_and_every_pair_once():
    pairs = report(*(arm(name, [[1, 0, 1]]) for name in GMAC))["tasks"]["lift"]["pairs"]
    names = [(pair["a"], pair["b"]) for pair in pairs]
    primary, secondary = (
        ["s2 large", "s2 fine", "s2_unpooled large"],
        ["s2 base", "s2 random", "s2 blind", "s2_unpooled s2"],
    )
    assert [" ".join(pair) for pair in names[:7]] == primary + secondary
    assert len({frozenset(pair) for pair in names}) == len(names) == 21


def test_latencies_of_two_machines_are_told_apart_and_not_drawn_on_one_axis(monkeypatch):
    arms = [arm("s2", [[1, 0]]), arm("large", [[1, 1]]), replace(arm("base", [[0, 1]]), machine="another processor")]
    alike, mixed = (report(*arms[:2], last) for last in (arm("base", [[0, 1]]), arms[2]))
    assert "- Times were measured on a processor." in to_document(alike, {})
    note = next(line for line in to_document(mixed, {}).splitlines() if "on machines that differ" in line)
    assert note.endswith("a processor: lift (s2, large). another processor: lift (base).")
    drawn = []
    monkeypatch.setattr(plots, "_draw_arm", lambda axes, x, arm, *rest: drawn.append((arm["name"], axes.get_xlabel())))
    plots.success_against_latency(mixed["tasks"]["lift"], "lift")
    assert [name for name, _ in drawn] == ["s2", "large"]
    assert "left out: 1 arm timed on another machine" in drawn[0][1]


def test_features_of_two_precisions_are_told_apart():
    arms = [arm("s2", [[1, 0]]), arm("blind", [[0, 0]]), arm("large", [[1, 1]])]
    assert "precisions" not in to_document(report(*arms), {})
    rounded = replace(arms[2], dtype="bfloat16")
    note = next(line for line in to_document(report(*arms[:2], rounded), {}).splitlines() if "precisions" in line)
    assert note.endswith("may lie in that too. float32: lift (s2). bfloat16: lift (large).")


def test_several_training_seeds_are_pooled_and_mcnemar_keeps_to_the_first():
    a, b = [[1, 1, 1, 0, 1, 1]] * 3, [[0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    built = report(arm("s2", a), arm("large", b))["tasks"]["lift"]
    (pair,) = built["pairs"]
    assert (pair["n"], pair["a_only"], pair["b_only"], pair["mcnemar_train_seed"]) == (6, 2, 0, 0)
    assert pair["diff"] == pytest.approx((15 - 4) / 18, abs=1e-5)
    assert built["arms"][0]["success"] | {"wilson95": None, "rate": None} == {
        "k": 15,
        "n": 18,
        "rate": None,
        "wilson95": None,
    }
    assert pair["verdict"].startswith("s2 beats large by 61.1 points")


def test_a_result_against_the_paper_is_said_plainly_in_the_report():
    built = report(arm("s2", [[0] * 8] * 3), arm("large", [[1] * 8] * 3))
    assert "large beats s2" in built["tasks"]["lift"]["pairs"][0]["verdict"]
    assert "AGAINST the claim that several scales" in built["tasks"]["lift"]["pairs"][0]["verdict"]


def test_a_comparison_beyond_the_tolerance_is_not_called_matched():
    dear = replace(arm("large", [[1, 0]]), gmac_image=1.50)
    built = report(arm("s2", [[1, 1]]), dear)
    assert "compute NOT matched: 1.42 against 1.50" in built["tasks"]["lift"]["pairs"][0]["verdict"]
    assert built["match_ratio"] == pytest.approx(1.5 / 1.42, abs=1e-5)


def test_outcomes_of_another_arm_are_not_taken_for_a_run():
    stray = replace(arm("s2", [[1, 0]]), name="large")
    with pytest.raises(MismatchError, match="were given for task 'lift', arm 'large', training seed 0"):
        report(stray)


def test_arms_without_a_common_training_seed_are_refused():
    first = arm("s2", [[1, 0]])
    other = arm("large", [[1, 0], [0, 1]])
    with pytest.raises(MismatchError, match="share no training seed; train both with the same ones"):
        report(first, replace(other, runs=other.runs[1:]))


@pytest.mark.parametrize(("change", "message"), [({"gmac_image": float("nan")}, "gmac_image is nan; give a measured")])
def test_figures_that_were_not_measured_are_refused(change, message):
    with pytest.raises(S2RobotError, match=message):
        replace(arm("s2", [[1]]), **change)


def test_a_report_of_nothing_is_refused():
    with pytest.raises(S2RobotError, match="nothing to report: give at least one task"):
        build_report({}, {}, COMMAND, {}, SETUP)


def test_the_report_says_what_the_arms_share_and_whether_training_was_told_positions():
    plain = "\n".join(notes(report(arm("s2", [[1]]))))
    assert "150 demonstrations at 224 px from agentview, bc_mlp (4 of 8 predicted actions executed)" in plain
    assert "1 shifted view;" in plain
    assert "Privileged" not in plain
    sparse = SETUP | {"recipe": SETUP["recipe"] | {"stride": 2}}
    said = "\n".join(notes(report(arm("s2", [[1]]), setup=sparse)))
    assert "1 shifted view, every 2 steps of a demonstration;" in said
    told = SETUP | {"policy": SETUP["policy"] | {"aux_weight": 0.5}}
    assert "Privileged: in training, policies also predicted" in "\n".join(notes(report(arm("s2", [[1]]), setup=told)))


def test_the_report_says_which_arms_have_a_policy_of_their_own():
    flow = {"policy": SETUP["policy"] | {"name": "flow", "chunk": 16}, "recipe": SETUP["recipe"] | {"epochs": 7}}
    told = "\n".join(notes(report(arm("s2", [[1]]), setup=SETUP | {"own": {"s2": flow}})))
    assert "from agentview. s2: flow (4 of 16 predicted actions executed), 7 epochs of batches" in told
    assert "; others: bc_mlp (4 of 8 predicted actions executed), 40 epochs" in told


def test_every_trained_policy_has_a_row_of_its_own(tmp_path):
    write_report(report(arm("s2", [[1, 1, 0, 1], [1, 0, 0, 0]])), tmp_path)
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [(row["train_seed"], row["success"]["k"], row["success"]["n"]) for row in rows] == [(0, 3, 4), (1, 1, 4)]
    assert rows[0]["success"]["wilson95"] == pytest.approx([0.30064, 0.954413], abs=1e-5)
    assert rows[1] | {"success": 0} == {
        "policy": "bc_mlp", "task": "lift", "arm": "s2", "encoder": "vit_tiny", "sizes": [112, 224], "train_seed": 1,
        "success": 0, "train_min": 31 / 60, "infer_ms": 0.8, "infer_50_ms": 4.0, "params": 480_000, "seam": None,
    } | {"train_min": pytest.approx(31 / 60, rel=1e-5)}  # fmt: skip


def test_tables_name_every_arm_and_dash_what_an_arm_lacks():
    built = report(arm("s2", [[1, 1, 0, 1]]), arm("blind", [[0, 0, 0, 1]]))
    table = arm_table(built["tasks"]["lift"])
    cells = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert (cells[0]["success"], cells[0]["GMAC/image"], cells[0]["p50 ms"]) == ("3/4", "1.42", "9.7")
    assert (cells[1]["peak MB"], cells[1]["frames/s"], cells[1]["sizes px"]) == ("-", "-", "-")
    assert (cells[0]["seam"], cells[0]["missed/other/open"]) == ("-", "-")
    lines = to_text(table).splitlines()
    assert len({line.index("/4") for line in lines[2:]}) == 1
    assert {line.count("|") for line in to_markdown(table).splitlines()} == {len(table.header) + 1}


def test_seams_and_kinds_of_failure_are_those_of_all_runs():
    told = arm("s2", [[1, 0, 0], [0, 0, 1]])
    kinds = [{"missed": 2, "other": 0, "open": 0}, {"missed": 0, "other": 1, "open": 1}]
    runs = [replace(run, seam=0.1 + i, failures=kinds[i]) for i, run in enumerate(told.runs)]
    built = report(replace(told, runs=runs))
    table = arm_table(built["tasks"]["lift"])
    cells = dict(zip(table.header, table.rows[0], strict=True))
    assert (cells["seam"], cells["missed/other/open"]) == ("0.600", "2/1/1")
    assert [row["seam"] for row in run_rows(built)] == [0.1, 1.1]


def test_an_arm_that_trains_its_vision_is_called_an_upper_line():
    trained = replace(arm("fine", [[1, 0]]), encoder="pixels")
    [line] = [line for line in notes(report(arm("base", [[1, 0]]), trained)) if "trained from pixels" in line]
    assert line.startswith("Vision is trained from pixels, not frozen, in fine: an upper line")
    assert not [line for line in notes(two_arms()) if "trained from pixels" in line]


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_printed_report_is_plain_text_off_a_terminal_and_bold_on_one():
    pipe, terminal = io.StringIO(), Terminal()
    print_report(two_arms(), pipe)
    print_report(two_arms(), terminal)
    assert "\033" not in pipe.getvalue()
    assert re.sub(r"\033\[\d*m", "", terminal.getvalue()) == pipe.getvalue()
    assert "\033[1mlarge, s2 on lift" in terminal.getvalue()
    assert COMMAND in pipe.getvalue()
    assert "no claim: one training seed" in pipe.getvalue()


def test_both_arms_of_s2_are_put_into_words_and_no_other() -> None:
    solved = {"large": [[1, 0] * 5] * 3, "s2": [[1, 0] * 5] * 3, "s2_unpooled": [[1] * 10] * 3, "base": [[0] * 10] * 3}
    task = report(*(arm(name, runs, curve=False) for name, runs in solved.items()))["tasks"]["lift"]
    spoken = ", ".join(pairs for pairs, _ in verdicts(task)).split(", ")
    assert {"s2 - large", "s2 - base", "s2_unpooled - large", "s2_unpooled - s2"} <= set(spoken)
    assert "large - base" not in spoken
    [sentence] = [pair["verdict"] for pair in task["pairs"] if (pair["a"], pair["b"]) == ("s2_unpooled", "large")]
    assert "in line with the claim that several scales of a small encoder" in sentence
    assert "compute matched" in sentence


def test_a_single_arm_is_reported_without_pairs_or_verdicts(tmp_path):
    page = write_report(report(arm("s2", [[1, 0]], curve=False)), tmp_path).read_text()
    assert "Cost and success" in page
    assert "Paired differences" not in page + (tmp_path / "report.md").read_text()
    assert "<h3>Verdict</h3>" not in page


def test_the_same_report_is_written_as_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        side_by_side([frames(5, 100)], [], tmp_path / f"{name}.mp4")
        write_report(two_arms(), tmp_path / name, videos={"lift": {"s2": tmp_path / f"{name}.mp4"}})
    one = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    two = {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    assert one == two
    assert {"report.json", "report.md", "report.html", "lift-s2.mp4", "lift-success-gmac.png"} <= set(one)
    assert json.loads(one["report.json"]) == two_arms()


def test_the_page_carries_its_pictures_and_clips_and_needs_no_network(tmp_path):
    side_by_side([frames(5, 100)], [frames(3, 50)], tmp_path / "clip.mp4")
    videos = {"lift": {"s2": tmp_path / "clip.mp4"}}
    page = write_report(two_arms(curve=True), tmp_path / "out", videos=videos).read_text()
    assert "http" not in page
    pictures = [base64.b64decode(data) for data in re.findall(r"image/png;base64,([\w+/=]+)", page)]
    assert len(pictures) == 6
    assert all(Image.open(io.BytesIO(picture)).width > 900 for picture in pictures)
    (clip,) = re.findall(r"video/mp4;base64,([\w+/=]+)", page)
    assert base64.b64decode(clip) == (tmp_path / "clip.mp4").read_bytes()


def test_a_clip_too_large_for_the_page_is_linked_instead(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(bytes(1_000_001))
    page = write_report(two_arms(), tmp_path / "out", videos={"lift": {"s2": tmp_path / "clip.mp4"}}).read_text()
    assert "video/mp4" not in page
    assert 'href="lift-s2.mp4"' in page
    assert (tmp_path / "out" / "lift-s2.mp4").stat().st_size == 1_000_001


def test_every_picture_and_clip_that_the_markdown_names_exists(tmp_path):
    side_by_side([frames(5, 100)], [], tmp_path / "clip.mp4")
    write_report(two_arms(), tmp_path / "out", videos={"lift": {"s2": tmp_path / "clip.mp4"}})
    names = re.findall(r"\]\(([^)]+)\)", (tmp_path / "out" / "report.md").read_text())
    assert len(names) == 3
    assert all((tmp_path / "out" / name).is_file() for name in names)


def test_text_in_a_report_cannot_become_markup(tmp_path):
    page = write_report(report(arm("s2", [[1, 0]], curve=False), command="<script>x</script>"), tmp_path).read_text()
    assert "<script>" not in page


def test_a_clip_of_an_unknown_arm_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(S2RobotError, match=r"unknown arm of a clip on lift 's3'; known: large, s2; did you mean 's2'"):
        write_report(two_arms(), tmp_path / "out", videos={"lift": {"s3": tmp_path / "x.mp4"}})
    assert not (tmp_path / "out").exists()


def test_plots_differ_with_the_outcomes_and_between_light_and_dark():
    task = two_arms()["tasks"]["lift"]
    other = report(arm("large", [[1] * 10]), arm("s2", [[1] * 10]))["tasks"]["lift"]
    light = success_against_gmac(task, "lift", LIGHT)
    assert light == success_against_gmac(task, "lift", LIGHT)
    assert light not in (success_against_gmac(other, "lift", LIGHT), success_against_gmac(task, "lift", DARK))


def test_a_report_without_learning_curves_leaves_their_plot_out(tmp_path):
    built = report(arm("s2", [[1, 0]], curve=False))
    assert learning_curves(built["tasks"]["lift"], "lift") is None
    write_report(built, tmp_path)
    assert not list(tmp_path.glob("*learning-curves*"))


def test_a_loss_below_zero_is_drawn_too():
    task = report(arm("s2", [[1, 0]]))["tasks"]["lift"]
    curve = task["arms"][0]["runs"][0]["curve"]
    low = {**curve, "val_loss": [None if value is None else -value for value in curve["val_loss"]]}
    points = sum(value is not None for value in curve["val_loss"])
    negative = {**task, "arms": [{**task["arms"][0], "runs": [{**task["arms"][0]["runs"][0], "curve": low}]}]}
    assert [len(_curve(one["arms"][0], "val_loss")[0]) for one in (task, negative)] == [points] * 2
    assert learning_curves(task, "lift") != learning_curves(negative, "lift")


def test_labels_are_moved_apart_and_stay_inside():
    places = _apart([0.0, 0.0, 99.0, 100.0], gap=6.0, low=2.0, high=98.0)
    assert min(np.diff(places)) >= 6.0 - 1e-6
    assert places[0] >= 2.0
    assert places[-1] <= 98.0
    assert _apart([10.0, 50.0], gap=6.0, low=2.0, high=98.0) == [10.0, 50.0]


def test_arms_of_nearly_equal_cost_form_one_cluster():
    assert _clusters([0.28, 1.47, 1.42, 1.44, 0.0], gap=0.09) == [[4], [0], [2, 3, 1]]


def other_task() -> dict:
    made = report(arm("s2", [[1, 0, 1]]), arm("large", [[0, 0, 1]]), versions={"torch": "2.13.1"}, command="elsewhere")
    return made | {"tasks": {"door": made["tasks"]["lift"]}, "stages_s": {"door": 5.0}}


def test_tasks_that_were_run_apart_make_one_report(tmp_path: Path) -> None:
    here, elsewhere = two_arms(), other_task()
    write_report(elsewhere, tmp_path / "elsewhere")
    joined = join_reports([read_report(tmp_path / "elsewhere" / "report.json"), here])
    assert list(joined["tasks"]) == ["door", "lift"]
    assert joined["tasks"]["lift"] == here["tasks"]["lift"]
    assert joined["versions"] == {"torch": "2.13.1 / 2.13.0"}
    assert joined["stages_s"] == {"door": 5.0, "train": 61.5}
    assert joined["command"] == f"elsewhere\n{COMMAND}"
    page = write_report(joined, tmp_path / "both").with_suffix(".md").read_text()
    assert "door" in page
    assert COMMAND in page


def test_arms_that_were_run_apart_are_paired_as_if_run_together(tmp_path: Path) -> None:
    base, s2 = arm("base", [[1, 0, 0, 1], [0, 0, 1, 1]]), arm("s2", [[1, 1, 0, 1], [1, 0, 1, 1]])
    write_report(report(base, command="one"), tmp_path)
    joined = join_reports([read_report(tmp_path / "report.json"), report(s2, command="two")])
    assert joined["tasks"] == report(base, s2)["tasks"]
    assert joined["command"] == "one\ntwo"
    third = report(arm("fine", [[0, 0, 0, 1], [0, 0, 0, 0]]), command="two")
    assert join_reports([joined, third])["command"] == "one\ntwo"
    assert len(join_reports([joined, third])["tasks"]["lift"]["pairs"]) == 3


def test_arms_of_other_states_or_settings_do_not_join() -> None:
    s2, base = report(arm("s2", [[1, 0]])), report(arm("base", [[1, 0]]))
    with pytest.raises(MismatchError, match="lift of a report differs at seeds: '20000:20002' against '20000:20003'"):
        join_reports([s2, report(arm("base", [[1, 0, 1]]))])
    moved = replace(arm("base", [[1, 0]]), runs=[RunRecord(0, 3.0, [outcome("base", 20000, True, state="ab" * 32)])])
    with pytest.raises(MismatchError, match="lift of a report differs at "):
        join_reports([report(arm("s2", [[1]])), report(moved)])
    flow = {"own": {"s2": {"policy": {"name": "flow"}, "recipe": {"lr": 1e-3}}}}
    own = report(arm("s2", [[1, 0]]), setup=SETUP | flow)
    assert join_reports([base, own])["setup"] == SETUP | flow
    elsewhere = s2 | {"tasks": {"door": s2["tasks"]["lift"]}}
    with pytest.raises(MismatchError, match=r"the setup of s2 differs at .*; join parts of one experiment"):
        join_reports([own, elsewhere])


def test_reports_of_two_experiments_do_not_join(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="large of lift came twice; join reports of different tasks or arms"):
        join_reports([two_arms(), two_arms()])
    longer = other_task() | {"setup": SETUP | {"recipe": SETUP["recipe"] | {"epochs": 41}}}
    with pytest.raises(
        MismatchError, match=r"setup of a report differs at recipe\.epochs: 40 against 41; join parts of"
    ):
        join_reports([two_arms(), longer])
    with pytest.raises(S2RobotError, match=r"there is no report at .*; give the report\.json of a finished"):
        read_report(tmp_path / "report.json")
    (tmp_path / "other.json").write_text('{"tasks": {}}')
    with pytest.raises(S2RobotError, match=r"other\.json has no command, setup, stages_s, versions; give"):
        read_report(tmp_path / "other.json")
    old = two_arms()
    del old["tasks"]["lift"]["states_sha256"]
    write_report(old, tmp_path)
    with pytest.raises(S2RobotError, match="does not say which states of lift each run solved"):
        read_report(tmp_path / "report.json")
