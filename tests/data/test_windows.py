"""Windows stay inside their episode, and padding is marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_episodes import make_episode

from s2robot.data.episodes import EpisodeStore
from s2robot.data.windows import FlatEpisodes, Horizons, flatten, make_windows
from s2robot.errors import S2RobotError

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def test_the_worked_example_in_the_source_is_true() -> None:
    windows = make_windows([3, 2], observation_horizon=2, action_chunk=3)
    assert windows.observation.tolist() == [[0, 0], [0, 1], [1, 2], [3, 3], [3, 4]]
    assert windows.action.tolist() == [[0, 1, 2], [1, 2, 2], [2, 2, 2], [3, 4, 4], [4, 4, 4]]
    assert windows.action_mask.astype(int).tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]]
    assert windows.episode.tolist() == [0, 0, 0, 1, 1]
    assert windows.step.tolist() == [0, 1, 2, 0, 1]


def test_observations_lie_as_far_apart_as_decisions() -> None:
    windows = make_windows([10], observation_horizon=3, action_chunk=1, observation_stride=4)
    assert windows.observation[9].tolist() == [1, 5, 9]
    assert windows.observation[6].tolist() == [0, 2, 6]


@pytest.mark.parametrize("values", [(0, 8, 4), (1, 8, 0), (1, 8, 9)])
def test_horizons_that_cannot_be_are_refused(values: tuple[int, int, int]) -> None:
    with pytest.raises(S2RobotError, match=r"observation_horizon=\d, execute=\d, chunk=8"):
        Horizons(*values)


@given(lengths=LENGTHS, horizon=st.integers(1, 5), chunk=st.integers(1, 9))
@settings(deadline=None)
def test_no_window_leaves_its_episode(lengths: list[int], horizon: int, chunk: int) -> None:
    windows = make_windows(lengths, horizon, chunk)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    assert len(windows) == sum(lengths)
    assert (owner[windows.observation] == windows.episode[:, None]).all()
    assert (owner[windows.action] == windows.episode[:, None]).all()


@given(lengths=LENGTHS, horizon=st.integers(1, 5), chunk=st.integers(1, 9))
@settings(deadline=None)
def test_a_window_is_what_a_plain_loop_over_time_would_make(lengths: list[int], horizon: int, chunk: int) -> None:
    windows = make_windows(lengths, horizon, chunk)
    start = w = 0
    for length in lengths:
        for t in range(length):
            assert windows.observation[w].tolist() == [start + max(t - i, 0) for i in reversed(range(horizon))]
            assert windows.action[w].tolist() == [start + min(t + i, length - 1) for i in range(chunk)]
            assert windows.action_mask[w].tolist() == [t + i < length for i in range(chunk)]
            w += 1
        start += length


@pytest.mark.parametrize(("lengths", "horizon", "chunk"), [([], 1, 1), ([3, 0], 1, 1), ([3], 0, 1), ([3], 1, 0)])
def test_empty_episodes_and_horizons_below_one_are_refused(lengths: list[int], horizon: int, chunk: int) -> None:
    with pytest.raises(S2RobotError, match=r"at least (1|one step)"):
        make_windows(lengths, horizon, chunk)


def test_gathered_windows_hold_the_values_of_the_stored_episodes(store: Path) -> None:
    flat = flatten(EpisodeStore(store))
    windows = flat.windows(observation_horizon=2, action_chunk=4)
    w = int(np.flatnonzero((windows.episode == 1) & (windows.step == 3))[0])
    source = make_episode(2)
    np.testing.assert_array_equal(flat.proprio[windows.observation[w]], source.proprio[2:4])
    np.testing.assert_array_equal(flat.action[windows.action[w]], source.action[[3, 4, 5, 5]])
    np.testing.assert_array_equal(flat.goal[windows.episode[w]], source.goal)
    np.testing.assert_array_equal(flat.labels["cube_pos_w_m"][6:12], source.labels["cube_pos_w_m"])


@pytest.mark.parametrize(
    ("horizons", "reach"), [((1, 7, 1), "7 and 1"), ((4, 2, 2), "2 and 7"), ((1, 6, 1), None), ((3, 2, 2), None)]
)
def test_horizons_that_no_episode_fills_are_refused(
    store: Path, horizons: tuple[int, int, int], reach: str | None
) -> None:
    flat = flatten(EpisodeStore(store))
    if reach is None:
        assert len(flat.windows(*horizons)) == 18
        return
    with pytest.raises(S2RobotError, match=f"reach over {reach} steps, the longest episode has 6; give shorter"):
        flat.windows(*horizons)


def test_flat_episodes_keep_the_given_order(store: Path) -> None:
    opened = EpisodeStore(store)
    flat = flatten(opened, opened.episodes[::-1])
    np.testing.assert_array_equal(flat.action[:6], make_episode(3).action)
    assert flat.lengths.tolist() == [6, 6, 6]
    with pytest.raises(S2RobotError, match=r"no episodes of .* were chosen"):
        flatten(opened, [])


def laid_end_to_end(lengths: list[int]) -> FlatEpisodes:
    starts, steps = np.concatenate([[0], np.cumsum(lengths)]), sum(lengths)
    rows, names = np.zeros((steps, 1), np.float32), tuple(map(str, range(len(lengths))))
    return FlatEpisodes(names, starts, rows, rows, np.zeros((len(lengths), 0), np.float32), {})


def test_the_worked_example_of_encoded_steps_is_true() -> None:
    encoded = laid_end_to_end([3, 2]).encoded(2)
    np.testing.assert_array_equal(encoded.kept, [1, 0, 1, 1, 0])
    np.testing.assert_array_equal(encoded.row, [0, 0, 1, 2, 2])
    np.testing.assert_array_equal(encoded.starts, [0, 2, 3])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 5))
def test_encoded_steps_are_what_slicing_every_episode_would_give(lengths: list[int], stride: int) -> None:
    encoded = laid_end_to_end(lengths).encoded(stride)
    sliced = [
        np.arange(start, start + n)[::stride] for start, n in zip(np.cumsum([0, *lengths]), lengths, strict=False)
    ]
    steps = np.concatenate(sliced)
    np.testing.assert_array_equal(np.flatnonzero(encoded.kept), steps)
    np.testing.assert_array_equal(encoded.row[steps], np.arange(len(steps)))
    np.testing.assert_array_equal(np.diff(encoded.starts), [len(part) for part in sliced])
