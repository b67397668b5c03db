"""The feature cache serves what was put in for exactly that key, or nothing."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from s2robot.data.features import FeatureCache, FeatureKey, shift_view
from s2robot.errors import S2RobotError

KEY = FeatureKey(encoder="e" * 64, episode="a" * 64, camera="front", view=1)
TOKENS = np.random.default_rng(0).normal(size=(5, 6, 4)).astype(np.float16)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    cache = FeatureCache(tmp_path)
    cache.put(KEY, TOKENS, (2, 3), encoder_name="tiny")
    return cache


def test_tokens_come_back_bit_for_bit_with_their_grid(cache: FeatureCache) -> None:
    found = cache.read(KEY)
    assert found.tokens.dtype == np.float16
    np.testing.assert_array_equal(found.tokens, TOKENS)
    assert found.grid == (2, 3)


def test_bfloat16_comes_back_bit_for_bit_and_other_tools_can_read_the_file(cache: FeatureCache) -> None:
    torch = pytest.importorskip("torch")
    tokens = torch.randn(5, 6, 4).bfloat16()
    cache.put(KEY, tokens.view(torch.int16).numpy().view(np.uint16), (2, 3), dtype="bfloat16")
    found = cache.read(KEY)
    assert torch.equal(torch.from_numpy(found.tokens.view(np.int16)).view(torch.bfloat16), tokens)
    np.testing.assert_array_equal(found.float32(), tokens.float().numpy())
    assert torch.equal(load(cache.path(KEY).read_bytes())["tokens"], tokens)


@pytest.mark.parametrize("field", ["encoder", "episode", "camera", "view"])
def test_another_key_is_not_served(cache: FeatureCache, field: str) -> None:
    other = replace(KEY, **{field: 2 if field == "view" else "b" * 64})
    assert cache.get(other) is None
    cache.path(other).parent.mkdir(parents=True, exist_ok=True)
    cache.path(KEY).rename(cache.path(other))  # even under the other's name
    assert cache.get(other) is None


def test_a_flipped_bit_in_any_byte_means_encode_again(cache: FeatureCache) -> None:
    path = cache.path(KEY)
    good = path.read_bytes()
    for position in range(len(good)):  # the lowest bit turns a digit into another digit, a name into another name
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        assert cache.get(KEY) is None, f"byte {position}"
    path.write_bytes(good)
    assert cache.get(KEY) is not None


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_file_means_encode_again(cache: FeatureCache, length: int) -> None:
    cache.path(KEY).write_bytes(cache.path(KEY).read_bytes()[:length])
    assert cache.get(KEY) is None
    with pytest.raises(
        S2RobotError, match=r"no intact features of camera 'front', view 1.*make them with `s2robot enc"
    ):
        cache.read(KEY)


def test_missing_lists_what_is_absent_or_damaged_and_nothing_else(cache: FeatureCache) -> None:
    plain, other = replace(KEY, view=0), replace(KEY, episode="b" * 64, view=0)
    cache.put(other, TOKENS, (2, 3))
    cache.path(other).write_bytes(cache.path(other).read_bytes()[:-1])
    missing = cache.missing(KEY.encoder, [KEY.episode, other.episode], ["front"], views=(0, 1))
    assert missing == [plain, other, replace(other, view=1)]


@pytest.mark.parametrize(
    ("tokens", "grid", "message"),
    [
        (TOKENS.astype(np.float32), (2, 3), r"tokens are float32\(5, 6, 4\), expected float16\(t, 6, c\)"),
        (TOKENS, (2, 2), r"tokens are float16\(5, 6, 4\), expected float16\(t, 4, c\) for a grid of 2x2"),
        (TOKENS[0], (2, 3), r"tokens are float16\(6, 4\)"),
    ],
)
def test_tokens_of_another_shape_or_dtype_are_refused(cache: FeatureCache, tokens, grid, message: str) -> None:
    with pytest.raises(S2RobotError, match=message):
        cache.put(KEY, tokens, grid)


def test_list_counts_episodes_and_bytes_by_encoder(cache: FeatureCache) -> None:
    cache.put(replace(KEY, view=0), TOKENS, (2, 3))
    cache.put(replace(KEY, encoder="f" * 64), TOKENS, (2, 3), encoder_name="large")
    listed = {line.name: line for line in cache.list()}
    assert (listed["tiny"].episodes, listed["tiny"].files) == (1, 2)
    assert listed["tiny"].bytes == 2 * listed["large"].bytes
    assert FeatureCache(cache.folder / "nowhere").list() == []


def test_prune_deletes_the_encoders_that_are_not_kept(cache: FeatureCache) -> None:
    cache.put(replace(KEY, encoder="f" * 64), TOKENS, (2, 3), encoder_name="large")
    assert [line.name for line in cache.prune(keep=["tiny"], dry_run=True)] == ["large"]
    assert len(cache.list()) == 2
    assert [line.name for line in cache.prune(keep=["eee"])] == ["large"]
    assert [line.name for line in cache.list()] == ["tiny"]


def test_prune_refuses_to_keep_what_is_not_there_and_deletes_nothing(cache: FeatureCache) -> None:
    cache.put(replace(KEY, encoder="f" * 64), TOKENS, (2, 3), encoder_name="large")
    with pytest.raises(S2RobotError, match=r"keep='tniy' is not in .*, which has large, tiny; nothing was deleted"):
        cache.prune(keep=["large", "tniy"])
    assert len(cache.list()) == 2


def test_prune_by_age_goes_by_the_last_use(cache: FeatureCache) -> None:
    large = replace(KEY, encoder="f" * 64)
    cache.put(large, TOKENS, (2, 3), encoder_name="large")
    long_ago = time.time() - 10 * 86400
    for key in (KEY, large):
        os.utime(cache.folder / key.encoder, (long_ago, long_ago))
    cache.read(large)
    assert [line.name for line in cache.prune(unused_days=5)] == ["tiny"]
    assert cache.get(large) is not None


def test_prune_without_a_rule_deletes_nothing(cache: FeatureCache) -> None:
    with pytest.raises(S2RobotError, match=r"prune needs keep=NAME,... or unused_days=N"):
        cache.prune()
    assert len(cache.list()) == 1


IMAGES = np.random.default_rng(2).integers(0, 256, (3, 50, 100, 3), dtype=np.uint8)


def test_view_zero_is_the_plain_frame() -> None:
    np.testing.assert_array_equal(shift_view(IMAGES, view=0, seed=7), IMAGES)


@given(view=st.integers(1, 50), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_a_view_shifts_every_frame_a_little_with_replicated_borders(view: int, seed: int) -> None:
    shifted = shift_view(IMAGES, view, seed)
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (4, 4), (0, 0)), mode="edge")  # 4 % of 50 and of 100
    for frame, crops in zip(shifted, padded, strict=True):
        assert sum(np.array_equal(frame, crops[y : y + 50, x : x + 100]) for y in range(5) for x in range(9)) == 1
    np.testing.assert_array_equal(shifted, shift_view(IMAGES, view, seed))


def test_views_and_seeds_differ_and_reach_every_shift() -> None:
    seen = {shift_view(IMAGES, view, seed)[0].tobytes() for view in (1, 2) for seed in range(300)}
    assert len(seen) == 5 * 9
    same = sum(np.array_equal(shift_view(IMAGES, 1, seed)[0], shift_view(IMAGES, 2, seed)[0]) for seed in range(100))
    assert same < 10  # 1 in 45 by chance


def test_frames_of_an_episode_shift_independently() -> None:
    still = np.repeat(IMAGES[:1], 40, axis=0)
    assert len({frame.tobytes() for frame in shift_view(still, 1, 0)}) > 20  # of 45
