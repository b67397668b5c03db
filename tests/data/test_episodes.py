"""The episode store gives back what it was given, in an order that depends on nothing else."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_episodes import SPEC, make_episode

from s2robot.data.episodes import EpisodeStore, EpisodeWriter
from s2robot.data.group import arrays_of, check_episode, episode_fingerprint, pack, unpack
from s2robot.errors import MismatchError, S2RobotError
from s2robot.types import Episode


def assert_same(a: Episode, b: Episode) -> None:
    ours, theirs = arrays_of(a), arrays_of(b)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        assert ours[name].shape == theirs[name].shape
        assert ours[name].tobytes() == theirs[name].tobytes(), name
    assert a.goal.tobytes() == b.goal.tobytes()
    assert (a.success, a.seed, a.end) == (b.success, b.seed, b.end)


@given(seed=st.integers(0, 2**31), steps=st.integers(1, 11))
@settings(max_examples=15, deadline=None)
def test_an_episode_of_any_length_comes_back_byte_for_byte(seed: int, steps: int) -> None:
    episode = make_episode(seed, steps)
    assert_same(unpack(pack(episode), episode.images), episode)


def test_black_frames_are_stored_like_any_other() -> None:
    episode = make_episode(1)
    episode.images["front"][...] = 0
    assert {f"images/front/c/{chunk}/0/0/0" for chunk in (0, 1)} <= pack(episode).keys()


def test_an_episode_without_state_labels_and_goal_comes_back(tmp_path: Path) -> None:
    spec = replace(SPEC, observation=replace(SPEC.observation, goal=()))
    episode = replace(make_episode(1), sim_state=None, labels={}, goal=np.zeros(0, np.float32))
    made = EpisodeWriter(tmp_path, spec).write(episode)
    assert_same(EpisodeStore(tmp_path).read(made), episode)


def test_episodes_are_listed_by_seed_whoever_wrote_them_when(store: Path) -> None:
    opened = EpisodeStore(store)
    assert opened.seeds == [1, 2, 3]
    for episode, seed in zip(opened.episodes, opened.seeds, strict=True):
        assert_same(opened.read(episode), make_episode(seed))


def test_only_the_chosen_cameras_are_read(store: Path) -> None:
    opened = EpisodeStore(store)
    assert opened.read(opened.episodes[0], images=False).images == {}
    assert set(opened.read(opened.episodes[0], images=["wrist"]).images) == {"wrist"}
    with pytest.raises(S2RobotError, match=r"unknown camera 'wrst'; known: front, wrist; did you mean 'wrist'"):
        opened.read(opened.episodes[0], images=["wrst"])


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (3, 5), (0, 6), (5, 6), (4, 6)])
def test_a_short_window_of_frames_is_the_same_as_in_the_whole_episode(store: Path, start: int, stop: int) -> None:
    opened = EpisodeStore(store)
    frames = opened.frames(opened.episodes[1], "front", start, stop)
    np.testing.assert_array_equal(frames, make_episode(2).images["front"][start:stop])


def test_frames_beyond_the_end_are_refused(store: Path) -> None:
    opened = EpisodeStore(store)
    with pytest.raises(S2RobotError, match=r"frames 4:7 are not inside episode .*, which has 6 steps"):
        opened.frames(opened.episodes[0], "front", 4, 7)


def test_the_fingerprint_depends_on_content_alone(tmp_path: Path) -> None:
    a, b = (EpisodeWriter(tmp_path / name, SPEC) for name in "ab")
    b.write(make_episode(5))
    ids = [writer.write(make_episode(4)) for writer in (a, b)]
    assert ids[0] == ids[1]
    assert EpisodeStore(a.path).fingerprint(ids[0]) == EpisodeStore(b.path).fingerprint(ids[1])


@pytest.mark.parametrize(
    "field", ["success", "seed", "end", "goal", "action", "images", "labels", "dtype", "sim_state"]
)
def test_any_change_of_content_changes_the_fingerprint(field: str) -> None:
    before, changed = make_episode(2), make_episode(2)
    if field == "images":
        changed.images["wrist"][3, 2, 1, 0] ^= 1
    elif field == "labels":
        changed.labels["touching"][0] ^= True
    elif field == "dtype":
        changed.labels["touching"] = changed.labels["touching"].view(np.uint8)
    elif field in ("goal", "action", "sim_state"):
        getattr(changed, field)[..., 0] += 1
    else:
        setattr(changed, field, {"success": True, "seed": 3, "end": "aborted"}[field])
    assert episode_fingerprint(changed) != episode_fingerprint(before)


def test_the_dataset_fingerprint_ignores_order_and_sees_spec_and_choice(store: Path, tmp_path: Path) -> None:
    opened = EpisodeStore(store)
    assert opened.dataset_fingerprint() == opened.dataset_fingerprint(reversed(opened.episodes))
    assert opened.dataset_fingerprint() != opened.dataset_fingerprint(opened.episodes[:2])
    other = EpisodeWriter(tmp_path / "other", replace(SPEC, renderer={"offsamples": 4}))
    for seed in (1, 2, 3):
        other.write(make_episode(seed))
    assert EpisodeStore(other.path).dataset_fingerprint() != opened.dataset_fingerprint()


def test_writing_the_same_episode_again_stores_it_once(store: Path) -> None:
    EpisodeWriter(store, SPEC).write(make_episode(2))
    assert EpisodeStore(store).seeds == [1, 2, 3]


def test_a_replaced_episode_is_superseded_and_an_open_store_still_reads_the_old_one(store: Path) -> None:
    before = EpisodeStore(store)
    old = before.episodes[1]
    changed = make_episode(2)
    changed.images["front"][0] = 9
    new = EpisodeWriter(store, SPEC).replace(old, changed)
    after = EpisodeStore(store)
    assert after.seeds == [1, 2, 3]
    assert old not in after.episodes
    assert_same(after.read(new), changed)
    assert_same(before.read(old), make_episode(2))
    assert after.dataset_fingerprint() != before.dataset_fingerprint()


def test_replacing_an_episode_by_a_stored_one_retires_the_old(store: Path) -> None:
    EpisodeWriter(store, SPEC).replace(EpisodeStore(store).episodes[0], make_episode(3))
    assert EpisodeStore(store).seeds == [2, 3]


def test_replacing_an_unknown_episode_is_refused(store: Path) -> None:
    with pytest.raises(S2RobotError, match="unknown episode '00000002-nope'; known: 00000001-"):
        EpisodeWriter(store, SPEC).replace("00000002-nope", make_episode(2))


def write_in_step(path: Path, seeds: range, barrier: Barrier) -> None:
    for seed in seeds:
        barrier.wait()
        EpisodeWriter(path, SPEC).write(make_episode(seed))


@pytest.mark.parametrize("second", [range(12, 24), range(12)], ids=["different episodes", "the same episodes"])
def test_two_processes_write_to_one_store_at_once(tmp_path: Path, second: range) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    workers = [context.Process(target=write_in_step, args=(tmp_path, seeds, barrier)) for seeds in (range(12), second)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    opened = EpisodeStore(tmp_path)
    assert opened.seeds == sorted({*range(12), *second})
    assert len((tmp_path / "index.jsonl").read_text().splitlines()) == len(opened)
    for episode, seed in zip(opened.episodes, opened.seeds, strict=True):
        assert_same(opened.read(episode), make_episode(seed))


def test_a_store_is_read_from_an_fsspec_url(store: Path) -> None:
    fsspec.filesystem("memory").put(str(store), "/remote", recursive=True)
    opened = EpisodeStore("memory://remote")
    assert_same(opened.read(opened.episodes[2]), make_episode(3))


def test_a_robot_log_becomes_an_episode_step_by_step(tmp_path: Path) -> None:
    writer, source = EpisodeWriter(tmp_path, SPEC), make_episode(3)
    buffer = {camera: np.empty_like(frames[0]) for camera, frames in source.images.items()}
    with writer.episode(seed=3, goal=source.goal.tolist()) as log:
        for t in range(len(source)):
            for camera in buffer:  # cameras hand out the same buffer every time
                buffer[camera][...] = source.images[camera][t]
            log.add(images=buffer, proprio=source.proprio[t], action=list(source.action[t]), time_s=source.time_s[t])
        log.success = False
    stored = EpisodeStore(tmp_path).read(log.id)
    assert_same(stored, replace(source, sim_state=None, labels={}, success=False, end="horizon"))


def test_a_recording_that_fails_stores_nothing(tmp_path: Path) -> None:
    writer, source = EpisodeWriter(tmp_path, SPEC), make_episode(1)

    def record_and_lose_the_robot() -> None:
        with writer.episode(seed=1, goal=source.goal) as log:
            frames = {camera: images[0] for camera, images in source.images.items()}
            log.add(images=frames, proprio=source.proprio[0], action=source.action[0], time_s=0.0)
            raise ConnectionError("robot gone")

    with pytest.raises(ConnectionError, match="robot gone"):
        record_and_lose_the_robot()
    with pytest.raises(S2RobotError, match="holds no episodes; fill it with `s2robot collect`"):
        EpisodeStore(tmp_path)


BAD_EPISODES = {
    "no steps": (dict(action=np.zeros((0, 2), np.float32)), "the episode has no steps"),
    "camera missing": (dict(images={}), r"cameras \[\], the spec has \['front', 'wrist'\]"),
    "float frames": (
        dict(images={k: v.astype(np.float32) for k, v in make_episode(1).images.items()}),
        r"images\['front'\] is float32\(6, 20, 24, 3\), expected uint8\(6, 20, 24, 3\)",
    ),
    "double proprio": (dict(proprio=np.zeros((6, 3))), r"proprio is float64\(6, 3\), expected float32\(6, 3\)"),
    "short action": (dict(action=np.zeros((6, 1), np.float32)), r"action is float32\(6, 1\), expected float32\(6, 2\)"),
    "NaN": (dict(action=np.full((6, 2), np.nan, np.float32)), "action has NaN or infinite values"),
    "goal": (dict(goal=np.zeros(1, np.float32)), r"goal is float32\(1,\), expected float32\(2,\)"),
    "clock": (dict(time_s=np.array([0, 1, 2, 2, 3, 4.0])), "time_s does not increase at step 3"),
    "list": (dict(proprio=[[1, 2, 3]] * 6), "proprio is a list; give a numpy array"),
    "flat state": (dict(sim_state=np.zeros(6)), r"sim_state is float64\(6,\), expected float64\(6, 6\)"),
    "short label": (dict(labels={"x": np.zeros(5)}), r"labels\['x'\] is float64\(5,\), expected float64\(6,\)"),
    "text label": (dict(labels={"x": np.array(["a"] * 6)}), r"labels\['x'\] has dtype <U1; give numbers or booleans"),
    "label name": (dict(labels={"../x": np.zeros(6)}), r"name '../x' cannot be a folder"),
    "seed": (dict(seed=-1), "seed -1 is not an integer from 0 on"),
    "end": (dict(end="won"), "end 'won' is unknown; give one of success, horizon, aborted"),
}


@pytest.mark.parametrize("case", BAD_EPISODES)
def test_an_episode_that_does_not_fit_the_spec_is_refused_in_one_line(case: str) -> None:
    change, message = BAD_EPISODES[case]
    with pytest.raises(S2RobotError, match=message) as caught:
        check_episode(replace(make_episode(1), **change), SPEC)
    assert "\n" not in str(caught.value)


def test_a_camera_whose_name_no_layer_may_have_is_refused() -> None:
    episode, cameras = make_episode(1), SPEC.observation.cameras
    named = replace(SPEC.observation, cameras=(replace(cameras[0], name="cam.left"), *cameras[1:]))
    images = {"cam.left" if name == cameras[0].name else name: frames for name, frames in episode.images.items()}
    with pytest.raises(S2RobotError, match=r"camera 'cam.left' has a dot"):
        check_episode(replace(episode, images=images), replace(SPEC, observation=named))


def test_actions_without_limits_are_refused_before_anything_is_stored() -> None:
    with pytest.raises(S2RobotError, match=r"action .* is limited to -inf to 1; give the range that the robot accepts"):
        replace(SPEC, action=replace(SPEC.action, low=(-np.inf, -1.0), high=(1.0, 1.0)))


def test_another_spec_is_refused_naming_the_field(store: Path) -> None:
    with pytest.raises(MismatchError, match=r"differs at action.rate_hz: 20.0 against 10.0; write to another store"):
        EpisodeWriter(store, replace(SPEC, action=replace(SPEC.action, rate_hz=10.0)))


def test_a_folder_with_other_files_is_not_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(S2RobotError, match=r"is not empty and holds no spec.json"):
        EpisodeWriter(tmp_path, SPEC)
    with pytest.raises(S2RobotError, match="no episode store at"):
        EpisodeStore(tmp_path)


def test_a_full_disk_is_one_clear_line_and_nothing_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        writer, stored = EpisodeWriter(folder / "store", SPEC), []
        with pytest.raises(S2RobotError, match=r"disk full while writing .*/store; what was finished is safe"):
            stored.extend(writer.write(make_episode(seed)) for seed in range(100))
        opened = EpisodeStore(folder / "store")
        assert opened.episodes == stored
        assert len(stored) >= 1
        for episode, seed in zip(opened.episodes, opened.seeds, strict=True):
            assert_same(opened.read(episode), make_episode(seed))
        assert list((folder / "store/.partial").iterdir()) == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def write_with_limited_files(path: Path) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    with pytest.raises(S2RobotError, match="file-size limit reached while writing"):
        EpisodeWriter(path, SPEC).write(make_episode(9))


def test_a_file_size_limit_is_one_clear_line_and_nothing_is_lost(store: Path) -> None:
    worker = multiprocessing.get_context("fork").Process(target=write_with_limited_files, args=(store,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert EpisodeStore(store).seeds == [1, 2, 3]


def test_every_index_line_is_json_with_its_own_checksum(store: Path) -> None:
    lines = (store / "index.jsonl").read_text().splitlines()
    assert [json.loads(line)["add"]["seed"] for line in lines] == [3, 1, 2]
    assert all("sha256" in json.loads(line) for line in lines)
