"""A whole comparison, small but real: interrupted, gone on with, started again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2robot.configs import choice, names
from s2robot.encoders import load_encoder
from s2robot.errors import MismatchError, S2RobotError
from s2robot.pipeline import compare as compare_module
from s2robot.pipeline.compare import Comparison
from s2robot.pipeline.experiment import Experiment

BY_FLOW = {"by_flow": {"encoder": "blind", "policy": "flow", "recipe": {"epochs": 1}}}
SMALL = Experiment(
    tasks=("lift",),
    arms=({"other": {"encoder": "base", "weights": "random"}}, "blind", BY_FLOW),
    policy="bc_mlp",
    demonstrations=3,
    frame_px=112,
    cameras=("agentview",),
    seeds="20000:20002",
    train_seeds=(0,),
    recipe={"epochs": 2, "batch_size": 32, "views": 1},
)


STAGES = ("collect", "encode blind", "train blind", "rollouts blind", "measure blind")


def run(out: Path) -> dict[str, Any]:
    return Comparison(SMALL, out, workers=1, device="cpu").run("s2robot compare ...")


def made(out: Path) -> dict[str, int]:
    """When each file of demonstrations, features, checkpoints and journals was written."""
    kinds = ("index.jsonl", "*.safetensors", "journal.jsonl", "clips.mp4", "inference-cpu.json", "encode.json")
    return {str(path): path.stat().st_mtime_ns for kind in kinds for path in out.rglob(kind)}


def test_an_interrupted_comparison_goes_on_and_a_finished_one_does_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = compare_module.train

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt("while training")

    monkeypatch.setattr(compare_module, "train", interrupted)
    with pytest.raises(KeyboardInterrupt, match="while training"):
        run(tmp_path)
    before = made(tmp_path)
    assert any(path.endswith("index.jsonl") for path in before)
    assert sum(path.endswith(".safetensors") for path in before) == 3
    monkeypatch.setattr(compare_module, "train", real)
    first = run(tmp_path)
    finished = made(tmp_path)
    assert before.items() <= finished.items()
    second = run(tmp_path)
    assert made(tmp_path) == finished
    assert second["tasks"] == first["tasks"]
    check_report(tmp_path, second)
    blind = replace(SMALL, arms=("blind",))
    alone = Comparison(blind, tmp_path, workers=1, device="cpu").run("s2robot compare ...")
    assert made(tmp_path) == finished
    assert list(alone["stages_s"]) == [f"lift: {stage}" for stage in STAGES]


def check_report(out: Path, report: dict[str, Any]) -> None:
    """The keys and files that others' scripts rely on."""
    assert json.loads((out / "report.json").read_text()) == report
    task = report["tasks"]["lift"]
    keys = {"name", "encoder", "sizes", "weights_sha256", "gmac_image", "gmac_decision", "params", "latency_ms"}
    for arm in task["arms"]:
        assert {*keys, "peak_mb", "machine", "runs", "success"} <= arm.keys()
        assert arm["success"]["n"] == 2
        assert {"train_seed", "train_s", "success"} <= arm["runs"][0].keys()
    assert [arm["policy"] for arm in task["arms"]] == ["bc_mlp", "bc_mlp", "flow"]
    assert [pair["a"] + " " + pair["b"] for pair in task["pairs"]] == ["other blind", "other by_flow", "blind by_flow"]
    own = report["setup"]["own"]
    assert list(own) == ["by_flow"]
    assert (own["by_flow"]["policy"]["name"], own["by_flow"]["recipe"]["epochs"]) == ("flow", 1)
    assert report["setup"]["recipe"]["epochs"] == 2
    assert len(json.loads((out / "table.json").read_text())) == 3
    assert report["setup"]["demonstrations"] == 3
    assert {"lift: collect", "lift: encode other", "lift: train other", "lift: rollouts blind"} <= report[
        "stages_s"
    ].keys()
    made_files = {path.name for path in out.iterdir()}
    plots = {f"lift-{plot}.png" for plot in ("success-gmac", "success-latency", "learning-curves")}
    assert {"report.html", "report.md", "lift-other.mp4", "lift-blind.mp4"} | plots <= made_files


@pytest.mark.parametrize("name", names("experiment"))
def test_every_shipped_experiment_can_be_built(name: str) -> None:
    built = Experiment.from_config(choice("experiment", name))
    assert built.setup()["policy"]["_target_"].startswith("s2robot.")
    for arm in built.each_arm():
        if not str(arm.encoder.get("path")).startswith("outputs/"):  # weights that a script puts there
            arm.check(load_encoder(arm.encoder, device="cpu"), built.cameras, built.frame_px)


@pytest.mark.parametrize("pair", [("s2", "large"), ("s2_unpooled", "large"), ("s2", "fine")])
def test_planned_pairs_of_unequal_compute_are_refused_before_anything_runs(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    unequal = replace(SMALL, arms=({pair[0]: {"encoder": "base"}}, pair[1]))
    with pytest.raises(MismatchError, match=r"not matched within 5%"):
        Comparison(unequal, tmp_path, workers=1, device="cpu").run("s2robot compare ...")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_policy_that_does_not_fit_its_encoder_is_found_before_anything_runs() -> None:
    odd = {"a": {"encoder": "base", "policy": "diffusion_unet", "policy_overrides": {"chunk": 15}}}
    [arm] = replace(SMALL, arms=(odd,)).each_arm()
    with pytest.raises(S2RobotError, match="15"):
        arm.check(load_encoder("base", device="cpu"), ("agentview",), 112)
    [fine] = replace(SMALL, arms=("fine",)).each_arm()
    with pytest.raises(S2RobotError, match="frames of 224 x 224 px are smaller than the largest scale, 240 px"):
        fine.check(load_encoder("fine", device="cpu"), ("agentview",), 224)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ("lift", "pick_cub")}, "did you mean 'pick_cube'"),
        ({"policy": "bcc"}, "unknown policy 'bcc'"),
        ({"policy_overrides": {"hiden": 3}}, "unknown key of policy bc_mlp 'hiden'; known: _target_, actions, "),
        ({"recipe": {"epoch": 3}}, r"recipe: Key 'epoch' .*; its keys are epochs"),
        ({"recipe": {"epochs": "ten"}}, r"recipe: Value 'ten' .* could not be converted"),
        ({"arms": ()}, "at least one task, one arm"),
        ({"arms": ("base", "lrge")}, "unknown encoder 'lrge'"),
        ({"arms": ({"a": {"encoder": "base", "policy": "flw"}},)}, "unknown policy 'flw'.*did you mean 'flow'"),
        ({"arms": ({"a": {"encoder": "base", "recipe": {"epoch": 1}}},)}, r"recipe: Key 'epoch'"),
        ({"recipe": 4}, "recipe=4 holds no keys"),
        ({"demonstrations": 0}, "demonstrations=0; give a whole number of at least 1"),
        ({"frame_px": "large"}, "frame_px='large'; give a whole number of at least 1"),
    ],
)
def test_what_is_mistyped_is_said_before_anything_runs(change: dict[str, Any], message: str) -> None:
    with pytest.raises(S2RobotError, match=message):
        replace(SMALL, **change)


def test_a_key_that_an_experiment_does_not_have_is_refused() -> None:
    with pytest.raises(S2RobotError, match=r"unknown key of .* 'demonstratons'.*did you mean 'demonstrations'"):
        Experiment.from_config({"demonstratons": 3})


def test_one_alone_needs_no_brackets() -> None:
    shipped = choice("experiment", "demo")
    one = Experiment.from_config(shipped | {"tasks": "lift", "arms": "s2", "train_seeds": 0, "cameras": "agentview"})
    assert (one.tasks, one.arms, one.train_seeds, one.cameras) == (("lift",), ("s2",), (0,), ("agentview",))


def test_nested_overrides_keep_their_neighbours() -> None:
    arms = replace(SMALL, policy_overrides={"observation": {"token_dropout": 0.5}}).each_arm()
    assert arms[0].policy["observation"] == choice("policy", "bc_mlp")["observation"] | {"token_dropout": 0.5}
    mean = {"_target_": "s2robot.policies.pools.MeanPool", "dim": 64}
    arms = replace(SMALL, policy_overrides={"observation": {"pool": mean}}).each_arm()
    assert arms[0].policy["observation"]["pool"] == mean  # another part, so nothing of the old one
    assert arms[2].policy == choice("policy", "flow")  # an arm's own policy has its own overrides and recipe
    assert (arms[0].recipe_of(0).batch_size, arms[2].recipe_of(0).batch_size) == (32, 256)


def test_a_part_of_an_experiment_by_the_names_of_its_arms() -> None:
    whole = Experiment.from_config(choice("experiment", "encoders"))
    part = whole.only(["s2_first", "base"])
    assert [arm.name for arm in part.each_arm()] == ["s2_first", "base"]
    assert part.each_arm()[0].encoder["path"] == "outputs/first_weights/vit_tiny_112"
    assert whole.only([]) == whole
    with pytest.raises(S2RobotError, match=r"unknown arm of the experiment 's2_frist'.*did you mean 's2_first'"):
        whole.only(["s2_frist"])
