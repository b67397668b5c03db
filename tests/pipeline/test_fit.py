"""The training loop: exact resume, undisturbed by validation, and a checkpoint that is whole or skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from s2robot.errors import DamagedError
from s2robot.pipeline.checkpoint import (
    load_tensors,
    newest_checkpoint,
    open_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from s2robot.pipeline.fit import Schedule, TrainState, fit

STEPS = 12


def make_state(ema: bool = True) -> TrainState:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
    return TrainState.create(module, Schedule(1e-2, STEPS, warmup=3), seed=5, weight_decay=0.1, ema=ema)


def batches(step: int) -> torch.Tensor:
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(step))


def train(state: TrainState, until: int, disturb: bool = False) -> list[float]:
    losses = []
    for record in fit(lambda x: (state.module(x) - x.sum(1, keepdim=True)).square().mean(), batches, state):
        losses.append(float(record.loss))
        if disturb:
            state.module.eval()
            torch.rand(7)
        if record.step == until:
            break
    return losses


def assert_same(a: TrainState, b: TrainState) -> None:
    tensors = b.tensors()
    for key, value in a.tensors().items():
        torch.testing.assert_close(value, tensors[key], rtol=0, atol=0)


def test_a_resumed_run_repeats_the_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    whole = make_state()
    train(whole, STEPS)
    first = make_state()
    train(first, 5)
    save_checkpoint(tmp_path, first.step, {"train_state": first.tensors()}, {})
    path, manifest = open_checkpoint(tmp_path)
    second = make_state()
    second.restore(load_tensors(path, "train_state"), manifest["step"])
    train(second, STEPS)
    assert_same(whole, second)


def test_validation_between_steps_does_not_touch_training() -> None:
    plain, disturbed = make_state(), make_state()
    assert train(plain, STEPS) == train(disturbed, STEPS, disturb=True)
    assert_same(plain, disturbed)


def test_the_loss_falls_and_the_average_lags_behind() -> None:
    state = make_state()
    losses = train(state, STEPS)
    assert losses[-1] < losses[0]
    assert state.ema is not None
    assert not torch.equal(state.ema[0].weight, state.module[0].weight)  # type: ignore[index]


def test_the_average_is_what_its_schedule_makes_of_the_weights() -> None:
    state, seen = make_state(), []
    expected = state.module[0].weight.detach().clone()  # type: ignore[index]
    for step in (1, 2, 3):
        train(state, step)
        seen.append(state.module[0].weight.detach().clone())  # type: ignore[index]
    for step, weight in enumerate(seen, start=1):
        decay = 1 - (1 + step) ** -0.75
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(state.ema[0].weight, expected)  # type: ignore[index]


def test_a_run_that_went_on_below_damaged_checkpoints_keeps_what_it_saves(tmp_path: Path) -> None:
    for step in (300, 310):
        path = save_checkpoint(tmp_path, step, {"policy": {"w": torch.zeros(3)}}, {})
        (path / "policy.safetensors").write_bytes(b"damaged")
    for step in (50, 60, 70):
        saved = save_checkpoint(tmp_path, step, {"policy": {"w": torch.zeros(3)}}, {})
        assert newest_checkpoint(tmp_path) == (saved, verify_checkpoint(saved))
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == ["step-00000060", "step-00000070"]


def test_the_schedule_warms_up_and_ends_at_its_floor() -> None:
    schedule = Schedule(1.0, steps=10, warmup=4, final=0.1)
    assert [schedule.at(s) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule.at(4) == 1.0
    assert schedule.at(10) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["manifest.json", "policy.safetensors"])
def test_a_flipped_byte_in_the_newest_checkpoint_is_noticed_and_the_one_before_is_used(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"policy": {"w": torch.full((3,), float(step))}}, {"kind": "policy"})
    victim = tmp_path / "step-00000002" / name
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 1
    victim.write_bytes(bytes(raw))
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["step"] == 1
    assert "skipping a damaged checkpoint" in capsys.readouterr().err


def test_a_checkpoint_folder_with_nothing_intact_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="holds no intact checkpoint; train one with `s2robot train`"):
        open_checkpoint(tmp_path)
    save_checkpoint(tmp_path, 1, {"policy": {"w": torch.zeros(2)}}, {})
    (tmp_path / "step-00000001" / "policy.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"policy\.safetensors is missing"):
        verify_checkpoint(tmp_path / "step-00000001")


def test_old_checkpoints_make_room_but_two_stay(tmp_path: Path) -> None:
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, {"policy": {"w": torch.zeros(1)}}, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]
