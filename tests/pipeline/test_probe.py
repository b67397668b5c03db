"""Probes: heads find what is in the tokens and nothing else, figures are right by hand, a run resumes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from s2robot.cli.main import main
from s2robot.configs import choice
from s2robot.encoders.huggingface import WEIGHTS_FOLDER
from s2robot.errors import MismatchError
from s2robot.pipeline.probe import capacity as capacity_module
from s2robot.pipeline.probe import frames as frames_module
from s2robot.pipeline.probe import run as run_module
from s2robot.pipeline.probe.capacity import Memoriser, memorise
from s2robot.pipeline.probe.dense import mean_iou
from s2robot.pipeline.probe.frames import FrameRecipe, draw_frames, load_labels, load_rgb
from s2robot.pipeline.probe.grid import mean_balanced
from s2robot.pipeline.probe.heads import CELLS, DenseHead, Training, dual_weights, ridge, sample_at, train_head
from s2robot.pipeline.probe.objects import visible
from s2robot.pipeline.probe.probes import PROBES
from s2robot.pipeline.probe.reconstruct import frame_errors, reconstruct
from s2robot.pipeline.probe.result import join_rows
from s2robot.pipeline.probe.run import Row, bootstrap
from s2robot.pipeline.probe.scores import MIN_PIXELS, Tokens, balanced, kernels
from s2robot.pipeline.probe.table import correlate, reconstructions_as_text

from .conftest import patch_encoder

QUICK = Training(steps=300, batch=64)
FRAMES, HELD_OUT, SHA = 600, 100, "ab" * 32


def bumps(seed: int = 0, goals: int = 2) -> tuple[Tokens, dict[str, np.ndarray]]:
    """Tokens in which channel g lights up where object g is, under noise; places within +-10 cm."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(-0.1, 0.1, (FRAMES, goals, 2)).astype(np.float32)
    axis = np.linspace(-0.1, 0.1, 7)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    distance = (x[None, None] - places[..., 0, None, None]) ** 2 + (y[None, None] - places[..., 1, None, None]) ** 2
    maps = np.exp(-distance / 0.04**2).reshape(FRAMES, goals, 49).transpose(0, 2, 1)
    noise = rng.normal(0, 0.05, (FRAMES, 49, 6))
    tokens = torch.from_numpy(np.concatenate([maps, noise], axis=2)).half()
    return Tokens(tokens, (7, 7), HELD_OUT), {"goal_xy_m": places, "goal_px": np.full((FRAMES, goals), 50)}


def value(probe: str, head: str, frames: np.ndarray) -> float:
    return PROBES[probe].reduce(frames.sum(0))


def test_both_heads_find_the_object_that_the_goal_names_and_nothing_in_noise():
    data, labels = bumps()
    found = {head: value("position", head, f) for head, f in PROBES["position"].heads(data, labels, QUICK)}
    assert found["ridge"] < 15
    assert found["small"] < 15
    shuffled = labels | {"goal_xy_m": np.random.default_rng(1).permutation(labels["goal_xy_m"])}
    blind = {head: value("position", head, f) for head, f in PROBES["position"].heads(data, shuffled, QUICK)}
    constant = 1000 * np.linalg.norm(shuffled["goal_xy_m"][-HELD_OUT:], axis=-1).mean()
    assert min(blind.values()) > 0.9 * constant


def test_position_leaves_out_what_the_arm_hides_and_says_what_it_would_be_with_it():
    data, labels = bumps()
    labels["goal_xy_m"][-HELD_OUT // 2 :, 1] += 1.0  # a metre off: nobody could know
    labels["goal_px"][-HELD_OUT // 2 :, 1] = MIN_PIXELS - 1
    found = {head: value("position", head, f) for head, f in PROBES["position"].heads(data, labels, QUICK)}
    assert set(found) == {"ridge", "ridge + hidden", "small", "small + hidden"}
    for head in ("ridge", "small"):
        assert found[head] < 15
        assert found[f"{head} + hidden"] > 200  # a quarter of the errors is a metre


def test_presence_is_asked_per_kind():
    rng = np.random.default_rng(2)
    shown = rng.random((FRAMES, 2)) < [0.5, 0.1]
    tokens = torch.from_numpy(rng.normal(size=(FRAMES, 49, 4))).half()
    code = np.zeros((FRAMES, 14, 14), np.uint8)
    for frame in range(FRAMES):
        for i in np.flatnonzero(shown[frame]):
            cell = int(rng.integers(1, 3))
            code[frame, 4 * i : 4 * i + 4, 4 * cell : 4 * cell + 4] = 3 + i
            tokens[frame, 7 * (2 * i) + 2 * cell, i] += 9
    centre = np.full((FRAMES, 2, 2), 7.0, np.float32)
    labels = {"kind": np.tile([1, 0], (FRAMES, 1)).astype(np.uint8), "code": code, "centre_px": centre}
    data = Tokens(tokens, (7, 7), HELD_OUT)
    training = Training(steps=600, batch=64)
    found = {head: value("presence", head, f) for head, f in PROBES["presence"].heads(data, labels, training)}
    assert found["small"] > 90
    counts = dict(PROBES["presence"].heads(data, labels, Training(steps=1)))["ridge"].sum(0)
    np.testing.assert_array_equal(counts[:, 2:].sum(1), shown[-HELD_OUT:, ::-1].sum(0), "kind 0 is object 1")


def test_instances_are_what_a_mean_token_tells_apart():
    rng = np.random.default_rng(4)
    distinct = torch.from_numpy(rng.normal(size=(FRAMES, 4, 64))).half()
    pairs = distinct.repeat_interleave(2, 0)[:FRAMES]  # every frame twice: a coin decides between two
    found = {}
    for name, tokens in (("distinct", distinct), ("pairs", pairs), ("none", torch.ones(FRAMES, 4, 64).half())):
        [(head, frames)] = PROBES["instances"].heads(Tokens(tokens, (2, 2), HELD_OUT), {}, Training(steps=600))
        assert (head, len(frames)) == ("linear", FRAMES - HELD_OUT)
        found[name] = value("instances", head, frames)
    assert found["distinct"] < 0.3
    assert found["pairs"] == pytest.approx(np.log(2), abs=0.3)
    assert found["none"] == pytest.approx(np.log(FRAMES - HELD_OUT), abs=0.1)


def test_a_whole_model_memorises_frames_that_differ_and_leaves_the_encoder_alone():
    encoder = patch_encoder()
    before = encoder.weights_sha256()
    corners = 255 * np.array([[n >> bit & 1 for bit in range(3)] for n in range(8)], np.uint8)  # of the colours' cube
    images = torch.from_numpy(corners)[..., None, None].expand(-1, -1, 48, 48).contiguous()
    model = Memoriser(encoder, len(images))
    first = model.vision.weight.detach().clone()
    assert memorise(model, images, 400).mean() < 0.5 * np.log(8)
    assert not torch.equal(model.vision.weight, first), "the backbone is trained too"
    alike = memorise(Memoriser(encoder, 8), images[:1].expand(8, -1, -1, -1), 60)
    assert alike.mean() == pytest.approx(np.log(8), abs=0.1)
    assert encoder.weights_sha256() == before


def test_statistics_come_from_training_frames_alone():
    data, _ = bumps()
    changed = data.tokens.clone()
    changed[-HELD_OUT:] = 100
    torch.testing.assert_close(Tokens(changed, (7, 7), HELD_OUT).statistics, data.statistics)


def test_ridge_is_the_primal_solution_at_its_penalty():
    stream = torch.Generator().manual_seed(0)
    x, new = torch.randn(300, 4, 5, generator=stream), torch.randn(50, 4, 5, generator=stream)
    kernel, cross = kernels(x, new, torch.zeros(5), torch.ones(5))
    flat, later = x.flatten(1).double(), new.flatten(1).double()
    centred = flat - flat.mean(0)
    torch.testing.assert_close(kernel, centred @ centred.T)
    truth = torch.randn(20, 3, generator=stream).double()
    y = centred @ truth
    dual = cross @ dual_weights(kernel, y, 7.0)
    primal = torch.linalg.solve(centred.T @ centred + 7.0 * torch.eye(20).double(), centred.T @ y)
    torch.testing.assert_close(dual, (later - flat.mean(0)) @ primal)
    torch.testing.assert_close(ridge(kernel, cross, flat @ truth + 5), (later @ truth + 5).float(), atol=1e-3, rtol=0)
    noise = ridge(kernel, cross, torch.randn(300, 3, generator=stream))
    assert noise.abs().mean() < 0.1, "what the training frames do not tell is left at the mean"
    assert (ridge(torch.zeros(20, 20).double(), torch.zeros(3, 20).double(), torch.ones(20, 1)) == 1).all()


def test_a_token_predicts_the_cells_of_its_own_patch():
    head = DenseHead((7, 7), torch.zeros(16), torch.ones(16), 1)
    head.net.weight.data = torch.eye(16)
    head.net.bias.data.zero_()
    image = torch.arange(CELLS * CELLS, dtype=torch.float32).view(1, CELLS, CELLS)
    tokens = image.view(1, 7, 4, 7, 4).permute(0, 1, 3, 2, 4).reshape(1, 49, 16)
    torch.testing.assert_close(head(tokens)[:, 0], image)
    assert DenseHead((8, 8), torch.zeros(5), torch.ones(5), 3, hidden=4)(torch.zeros(2, 64, 5)).shape == (2, 3, 28, 28)


def test_tokens_are_read_where_the_object_is():
    y, x = torch.meshgrid(torch.arange(7.0), torch.arange(7.0), indexing="ij")
    tokens = torch.stack([torch.stack([x, y], -1).view(49, 2), torch.full((49, 2), 9.0)])
    place = torch.tensor([[0.5, 3.5 / 7], [2.25 / 7, 6.5 / 7], [0.2, 0.2]])
    read = sample_at(tokens, (7, 7), torch.tensor([0, 0, 1]), place)
    torch.testing.assert_close(read[:, :2], torch.tensor([[3.0, 3.0], [1.75, 6.0], [9.0, 9.0]]))
    torch.testing.assert_close(read[:2, 2:], torch.tensor([[0.5, 0.5], [0.25, 0.5]]))


def test_scores_by_hand():
    assert mean_iou(np.array([[8, 2], [0, 5]])) == pytest.approx(100 * (8 / 10 + 5 / 7) / 2)
    assert mean_iou(np.array([[4, 0, 0], [0, 0, 0], [0, 0, 4]])) == 100  # what never appears does not count
    assert balanced(np.array([90, 10, 5, 5])) == pytest.approx(70)
    never, always, both = [9, 1, 0, 0], [0, 0, 2, 8], [3, 1, 1, 3]
    assert mean_balanced(np.array([never, always, both])) == pytest.approx(75)


def told(labels: dict[str, np.ndarray], what: np.ndarray | None) -> Tokens:
    """Tokens that carry `what` (f, c) of each frame everywhere, or noise."""
    rng = np.random.default_rng(8)
    values = rng.normal(size=(FRAMES, 4)) if what is None else what
    return Tokens(torch.from_numpy(np.repeat(values[:, None], 16, axis=1)).half(), (4, 4), HELD_OUT)


@pytest.mark.parametrize(
    ("probe", "known", "blind"),
    [
        ("joints", 3, 14.3),  # uniform within +-0.5 rad: 0.25 rad from the middle on average
        ("kind", 95, 25),  # of four
        ("size", 5, 36),  # log-uniform from 2 to 8 cm
        ("orientation", 3, 22.5),
        ("contact", 95, 50),
        ("depth", 4, 36),  # log-uniform as well
        ("segmentation", 90, None),
    ],
)
def test_each_probe_measures_in_its_unit_from_what_is_known_to_nothing(
    probe: str, known: float, blind: float | None
) -> None:
    rng = np.random.default_rng(7)
    kind, lifted = rng.integers(4, size=(FRAMES, 1)), rng.random((FRAMES, 1)) < 0.5
    size_m, yaw = 0.02 * 4 ** rng.random((FRAMES, 1)), rng.uniform(-np.pi, np.pi, (FRAMES, 1))
    joints, depth_m = rng.uniform(-0.5, 0.5, (FRAMES, 7)), 0.5 * 4 ** rng.random((FRAMES, 1))
    shown = rng.integers(1, 3, size=(FRAMES, 1))  # table, or an object
    labels = {
        "kind": kind.astype(np.uint8), "size_m": size_m.astype(np.float32), "yaw_rad": yaw.astype(np.float32),
        "lifted": lifted, "joints_rad": joints, "centre_px": np.full((FRAMES, 1, 2), 7.0, np.float32),
        "depth_m": np.broadcast_to(depth_m[..., None], (FRAMES, 28, 28)),
        "code": np.full((FRAMES, 14, 14), 3, np.uint8),
    }  # fmt: skip
    if probe == "segmentation":
        labels["code"] = np.where(shown[..., None] == 1, 1, 3) * np.ones((FRAMES, 14, 14), np.uint8)
    answers = {
        "joints": joints, "kind": np.eye(4)[kind[:, 0]], "size": np.log(size_m), "contact": lifted,
        "orientation": np.concatenate([np.cos(4 * yaw), np.sin(4 * yaw)], 1), "depth": np.log(depth_m),
        "segmentation": shown,
    }  # fmt: skip
    training, about = Training(steps=300, batch=64, lr=1e-2), PROBES[probe]
    for what, wanted in ((answers[probe].astype(float), known), (None, blind)):
        if wanted is None:
            continue
        for head, frames in about.heads(told(labels, what), labels, training):
            found = value(probe, head, frames)
            if what is None:
                assert found == pytest.approx(wanted, rel=0.2), head
            elif about.lower_is_better:
                assert found < wanted, head
            else:
                assert found > wanted, head


def test_an_interval_covers_the_mean_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        errors = rng.exponential(1.0, 120)
        frames = np.stack([errors, np.ones(120)], 1)[None]
        low, high = bootstrap(frames, lambda s: s[0] / s[1], resamples=300, seed=trial)
        inside += low <= 1.0 <= high
    assert 178 <= inside <= 199


def test_the_interval_of_several_weight_seeds_spans_them():
    seeds = np.stack([np.stack([np.full(50, value), np.ones(50)], 1) for value in (40.0, 50.0, 60.0)])
    low, high = bootstrap(seeds, lambda s: s[0] / s[1])
    assert low < 45
    assert high > 55


def test_every_frame_is_trained_with_every_goal():
    """Frames and goals are drawn from streams of their own: from one stream, goal and frame would go together."""
    pairs = set()

    def loss(index: torch.Tensor) -> torch.Tensor:
        pairs.update(zip(index.tolist(), torch.randint(4, (len(index),)).tolist(), strict=True))
        return head(torch.zeros(1, 1)).sum()

    head = torch.nn.Linear(1, 1)
    train_head(head, loss, 64, Training(steps=40))
    assert len(pairs) == 64 * 4


def test_only_objects_in_view_are_asked_about():
    code = np.zeros((2, 8, 8), np.uint8)
    code[0, :4, :4], code[1, 0, 0] = 3, 4
    centre = np.array([[[2, 2], [np.nan, np.nan]], [[20, 2], [0.5, 0.5]]], np.float32)
    np.testing.assert_array_equal(visible({"code": code, "centre_px": centre}), [[True, False], [False, False]])


def test_reconstruction_of_what_is_linear_and_of_noise():
    rng = np.random.default_rng(3)
    source = torch.from_numpy(rng.normal(size=(400, 49, 8))).float()
    linear = source @ torch.from_numpy(rng.normal(size=(8, 5))).float() + 2
    noise = torch.from_numpy(rng.normal(size=(400, 49, 5))).float()
    data = Tokens(source, (7, 7), HELD_OUT)
    whole = reconstruct("a", data, "b", Tokens(linear, (7, 7), HELD_OUT))
    assert whole.r2 > 0.999
    assert whole.bits > 9
    half = reconstruct("a", data, "b", Tokens(linear + linear.std() * noise, (7, 7), HELD_OUT), ceiling=data)
    assert half.r2 == pytest.approx(0.5, abs=0.03)
    assert half.bits == pytest.approx(1.0, abs=0.1)
    assert half.r2_ci95[0] < half.r2 < half.r2_ci95[1]
    assert half.ratio == pytest.approx(1)
    assert reconstructions_as_text([half]).splitlines()[1].split()[-2:] == [f"{half.bits:.2f}", "1.00"]
    nothing = reconstruct("a", data, "b", Tokens(noise, (7, 7), HELD_OUT))
    assert nothing.r2 == pytest.approx(0, abs=0.01)
    other_grid = frame_errors(data, Tokens(torch.zeros(400, 16, 5), (4, 4), HELD_OUT))
    assert other_grid.shape == (HELD_OUT, 2)


def row(encoder: str, value: float) -> Row:
    return Row(
        encoder,
        f"{SHA[:12]}+other",
        "pick_cube",
        "position",
        "small",
        value,
        "mm",
        (value, value),
        True,
        100,
        1,
        "asked",
    )


def test_rows_of_other_runs_join_in_their_order_and_ones_own_win():
    others, own = [row("a", 3), row("b", 5)], [row("b", 4), row("c", 6)]
    assert [(line.encoder, line.value) for line in join_rows(others, own, {})] == [("a", 3), ("b", 4), ("c", 6)]
    with pytest.raises(MismatchError, match=r"the weights of b differs .*'other' against '[0-9a-f]+\+other'"):
        join_rows(others, [replace(own[0], weights="other")], {})
    with pytest.raises(
        MismatchError, match=r"how position on pick_cube was asked differs .*'otherwise' against 'asked'"
    ):
        join_rows(others, [], {("pick_cube", "position"): "otherwise"})


def test_rank_correlation_is_plus_one_where_the_better_probe_wins():
    rates = zip("abcd", (0.9, 0.8, 0.5, 0.1), strict=True)
    arms = [{"name": name, "weights_sha256": SHA, "success": {"rate": rate}} for name, rate in rates]
    report = {"tasks": {"pick_cube": {"arms": arms}, "lift": {"arms": arms}}}
    [found] = correlate([row(name, mm) for name, mm in zip("abcd", (3, 5, 9, 70), strict=True)], report)
    assert (found.task, found.rho, found.n) == ("pick_cube", 1.0, 4)
    assert found.ci95 is not None
    assert found.ci95[0] < 0.9
    [found] = correlate([row(name, mm) for name, mm in zip("abcd", (70, 9, 5, 3), strict=True)], report)
    assert found.rho == -1
    for arm in arms[:2]:
        arm["weights_sha256"] = "another"
    assert correlate([row(name, mm) for name, mm in zip("abcd", (70, 9, 5, 3), strict=True)], report) == []


@pytest.mark.parametrize("n", range(4, 11))
def test_a_perfect_rank_of_few_encoders_is_not_certain(n: int) -> None:
    names = "abcdefghij"[:n]
    arms = [{"name": name, "weights_sha256": SHA, "success": {"rate": 0.9 - 0.05 * i}} for i, name in enumerate(names)]
    rows = [row(name, 3.0 + i) for i, name in enumerate(names)]
    [found] = correlate(rows, {"tasks": {"pick_cube": {"arms": arms}}})
    assert found.ci95 is not None
    assert found.ci95[0] < 0.998


def test_task_frames_name_every_cube_and_are_drawn_again_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(frames_module, "SHARD_FRAMES", 4)
    recipe = FrameRecipe("pick_cube", choice("task", "pick_cube"), "agentview", 64, 4)
    [one] = draw_frames(recipe, tmp_path / "one", 0)
    [two] = draw_frames(recipe, tmp_path / "two", 0)
    np.testing.assert_array_equal(load_rgb(one), load_rgb(two))
    labels = load_labels([one])
    assert labels["goal_xy_m"].shape == (4, 4, 2)
    assert labels["goal_px"].shape == (4, 4)
    assert labels["joints_rad"].shape == (4, 7)
    env = next(iter(frames_module._WORLDS.values()))
    env.reset(seed=31_234)
    np.testing.assert_array_equal(env.goal_positions_w()[env.goal.argmax()], env.target_pos_w())


def test_a_run_prints_writes_and_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    for module in (frames_module, run_module):
        monkeypatch.setattr(module, "SHARD_FRAMES", 6)
    arguments = [
        "probe",
        "encoders=[base,{mine:{encoder:base,weights:random}}]",
        "tasks=[lift]",
        "probes=[joints,kind]",
        "frames=12",
        "held_out=6",
    ]
    arguments += ["steps=3", "weight_seeds=2", "ceiling={wide:{encoder:s2,weights:random}}"]  # a ceiling is not probed
    arguments += ["capacity=6", "capacity_steps=2", "target=base", f"out={tmp_path}", "workers=0", "device=cpu"]
    assert main(arguments) == 0
    printed, said = capsys.readouterr()
    assert "probe joints of mine on lift" in said, "by the name that it goes under, not by its architecture"
    assert "encode wide: 2/2 shard" in said
    assert "lift: joints, deg (ridge)" in printed
    assert "scenes: kind, accuracy % (small)" in printed
    rows = json.loads((tmp_path / "probe.json").read_text())
    assert {row["encoder"] for row in rows} == {"constant", "base", "mine"}
    assert {row["weight_seeds"] for row in rows if row["encoder"] == "mine"} == {2}
    assert all(row["ci95"][0] <= row["value"] <= row["ci95"][1] for row in rows)
    [line] = json.loads((tmp_path / "reconstruction.json").read_text())
    assert line["source"] == "mine"
    assert line["ratio"] == pytest.approx(line["bits"] / line["bits_ceiling"])
    held = json.loads((tmp_path / "capacity.json").read_text())
    assert [(line["encoder"], line["frames"], line["steps"]) for line in held] == [("base", 6, 2), ("mine", 6, 2)]
    assert "6 frames memorised in 2 steps, nats (a guess: 1.79)" in printed
    assert (tmp_path / "probe.png").stat().st_size > 10_000

    def never(*_: object) -> None:
        raise AssertionError("was finished already")

    monkeypatch.setattr(run_module, "_tokens", never)
    monkeypatch.setattr(capacity_module, "memorise", never)
    assert main([*arguments[:-4], "target=null", *arguments[-3:]]) == 0
    assert json.loads((tmp_path / "probe.json").read_text()) == rows

    whole = tmp_path / "whole.json"
    (tmp_path / "probe.json").rename(whole)
    part = ["probe", "encoders=[base]", "tasks=[lift]", "probes=[joints]", *arguments[4:7], f"beside=[{whole}]"]
    part += [f"out={tmp_path}", "workers=0", "device=cpu"]
    assert main(part) == 0
    assert json.loads((tmp_path / "probe.json").read_text()) == rows, "what another run asked joins this one's"
    whole.write_text(json.dumps([line | {"asked": "0" * 16} for line in rows]))
    capsys.readouterr()
    assert main(part) == 2
    assert "how joints on lift was asked differs" in capsys.readouterr().err


def test_curves_over_what_a_pretraining_kept(tmp_path, monkeypatch, capsys):
    for module in (frames_module, run_module):
        monkeypatch.setattr(module, "SHARD_FRAMES", 10)
    for run, steps in (("one", (100, 200)), ("two", (100,))):
        recipe = {"recipe": {"tile_px": 112, "batch_size": 32, "scales": [1], "dense": 1.0, "mae": 0.0}}
        if run == "two":
            recipe["recipe"] |= {"dense": 0.0, "mae": 1.0}
        for step in steps:
            folder = tmp_path / run / "kept" / f"step-{step:06d}"
            shutil.copytree(WEIGHTS_FOLDER / "vit_tiny_112", folder)
            (folder / "recipe.json").write_text(json.dumps(recipe))
    runs = "runs=[" + ",".join(f"{{{run}:{{encoder:base,run:{tmp_path / run}}}}}" for run in ("one", "two")) + "]"
    arguments = ["tasks=[lift]", "probes=[joints]", "frames=20", "held_out=10", "steps=3"]
    assert main(["probe", runs, *arguments, f"out={tmp_path / 'out'}", "workers=0", "device=cpu"]) == 0
    rows = json.loads((tmp_path / "out" / "curves.json").read_text())
    points = {(row["run"], row["samples"]): row["tmac"] for row in rows if row["encoder"] != "constant"}
    assert set(points) == {("one", 3200), ("one", 6400), ("two", 3200)}
    assert points["one", 6400] == pytest.approx(6400 * 3 * 0.2816e-3, rel=0.02)  # ViT-Ti/16 at 112 px
    assert points["two", 3200] == pytest.approx(points["one", 3200] / 4), "MAE shows the encoder a quarter"
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    (tmp_path / "none").mkdir()
    one = f"{{one:{{encoder:base,run:{tmp_path / 'one'}}}}}"
    for wrong, message in (
        (f"[{{none:{{encoder:base,run:{tmp_path / 'none'}}}}}]", "kept no weights"),
        (f"[{one},{one}]", "run 'one' is listed twice"),
        ("[{a:{encoder:base,run:null}}]", "is no run"),
        ("outputs", "'outputs' is no run"),
    ):
        assert main(["probe", f"runs={wrong}", *arguments, f"out={tmp_path / 'out'}"]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("probes=colour", "unknown probe 'colour'"),
        ("probes=[colour]", "unknown probe 'colour'; known: contact"),
        ("held_out=3000", "held_out=3000 of frames=4000: hold out at least 100 and at most half"),
        ("encoders=[blind]", "encoder 'blind' sees nothing"),
        ("frames=4050", "frames=4050; give a multiple of 100"),
        ("tasks=[]", "give at least one encoder, and a task for position, joints"),
        ("target=blind", "encoder 'blind' sees nothing"),
        ("ceiling=s3", "unknown encoder 's3'"),
        ("frame_px=200", "frames of 200 x 200 px are smaller than the largest scale, 224 px"),
        ("ceiling={one:{encoder:large,sizes:[128,256]}}", "frames of 240 x 240 px are smaller than the largest scale"),
        ("ceiling={one:{encoder:s3}}", "unknown encoder 's3'"),
        ("ceiling={one:{},two:{}}", "is no encoder; give a name, or {new_name:"),
        ("success=pyproject.toml", "pyproject.toml is not valid JSON"),
        ("beside=[nowhere.json]", "there is no nowhere.json; give the probe.json of a finished `s2robot probe`"),
        ("beside=results/deploy/latency.json", "latency.json is no probe.json of this version: its rows have asked,"),
    ],
)
def test_bad_input_is_one_line(change: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", change, f"out={tmp_path}"]) == 2
    assert message in capsys.readouterr().err
