"""Damage to any file of a store is noticed, named, and mended without losing what is whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_episodes import SPEC, make_episode

from s2robot.data.episodes import EpisodeStore, EpisodeWriter
from s2robot.data.repair import repair, verify
from s2robot.errors import DamagedError, S2RobotError

FILES_OF_AN_EPISODE = [
    "manifest.json",
    "zarr.json",
    "images/zarr.json",
    "images/front/zarr.json",
    "images/front/c/0/0/0/0",
    "images/front/c/1/0/0/0",
    "images/wrist/c/0/0/0/0",
    "proprio/zarr.json",
    "proprio/c/0/0",
    "action/zarr.json",
    "action/c/0/0",
    "time_s/c/0",
    "sim_state/zarr.json",
    "sim_state/c/0/0",
    "labels/zarr.json",
    "labels/touching/zarr.json",
    "labels/touching/c/0",
]


def flip_a_bit(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 4
    path.write_bytes(data)


def second(store: Path) -> Path:
    return store / "episodes" / EpisodeStore(store).episodes[1]


@pytest.mark.parametrize("file", FILES_OF_AN_EPISODE)
@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink])
def test_a_flipped_bit_or_a_missing_file_is_named_with_episode_and_remedy(store: Path, file: str, damage) -> None:
    folder = second(store)
    damage(folder / file)
    fault = "is missing" if damage is Path.unlink else "fails its checksum"
    message = rf"episode {folder.name} of .*/store: {file} {fault}; see `s2robot data verify store=.*data repair store="
    opened = EpisodeStore(store)
    with pytest.raises(DamagedError, match=message):
        opened.read(folder.name)
    assert verify(store).damaged == {folder.name: f"{file} {fault}"}
    assert opened.read(opened.episodes[0]).seed == 1


def test_the_list_of_damaged_files_covers_every_file_kind_of_a_group(store: Path) -> None:
    folder = second(store)
    kinds = {str(path.relative_to(folder).parts[0]) for path in folder.rglob("*") if path.is_file()}
    assert kinds == {file.split("/")[0] for file in FILES_OF_AN_EPISODE}


def test_a_missing_chunk_is_noticed_by_a_read_of_the_frames_in_it(store: Path) -> None:
    folder = second(store)
    (folder / "images/front/c/1/0/0/0").unlink()
    opened = EpisodeStore(store)
    assert opened.frames(folder.name, "front", 0, 4).shape == (4, 20, 24, 3)
    with pytest.raises(DamagedError, match="images/front/c/1/0/0/0 is missing"):
        opened.frames(folder.name, "front", 3, 5)


@pytest.mark.parametrize("at", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_a_flipped_bit_in_the_spec_is_noticed(store: Path, at: float) -> None:
    flip_a_bit(store / "spec.json", at * 0.98)
    with pytest.raises(DamagedError, match=r"spec.json of .*/store fails its checksum; restore it from a copy"):
        EpisodeStore(store)


@pytest.mark.parametrize("at", [0.01, 0.3, 0.5, 0.7, 0.99])
def test_a_flipped_bit_in_the_index_is_noticed_and_the_episode_comes_back(store: Path, at: float) -> None:
    flip_a_bit(store / "index.jsonl", at)
    with pytest.raises(DamagedError, match=r"index.jsonl of .*/store is damaged at line [123]; .*data repair store="):
        EpisodeStore(store)
    found = verify(store)
    assert len(found.damaged_lines) == 1
    assert not found.intact
    assert len(repair(store).recovered) == 1
    assert EpisodeStore(store).seeds == [1, 2, 3]
    assert verify(store).intact


@pytest.mark.parametrize("kept", [1, 40, 200])
def test_a_torn_last_line_is_ignored_and_does_not_spoil_the_next_one(store: Path, kept: int) -> None:
    index = store / "index.jsonl"
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(lines[0] + lines[1] + lines[2][:kept])
    assert EpisodeStore(store).seeds == [1, 3]
    EpisodeWriter(store, SPEC).write(make_episode(4))
    assert EpisodeStore(store).seeds == [1, 3, 4]


def test_the_last_line_without_its_newline_does_not_count_yet(store: Path) -> None:
    index = store / "index.jsonl"
    index.write_bytes(index.read_bytes()[:-1])
    assert EpisodeStore(store).seeds == [1, 3]


def test_leftovers_of_a_dead_writer_are_removed_and_those_of_a_living_one_kept(store: Path) -> None:
    dead = store / ".partial" / "dead"
    (dead / "images").mkdir(parents=True)
    with EpisodeWriter(store, SPEC)._partial() as alive:
        EpisodeWriter(store, SPEC)
        assert alive.exists()
        assert not dead.exists()
    assert not alive.exists()


def test_repair_sets_a_damaged_episode_aside_and_keeps_its_files(store: Path) -> None:
    folder = second(store)
    flip_a_bit(folder / "action/c/0/0")
    assert repair(store).set_aside == [folder.name]
    assert EpisodeStore(store).seeds == [1, 3]
    assert (store / ".damaged" / folder.name / "action/c/0/0").exists()
    assert verify(store).intact
    assert repair(store).set_aside == []


def test_a_repaired_store_takes_the_episode_again(store: Path) -> None:
    for _ in range(2):
        flip_a_bit(second(store) / "action/c/0/0")
        repair(store)
        EpisodeWriter(store, SPEC).write(make_episode(2))
        assert EpisodeStore(store).seeds == [1, 2, 3]
    assert len(list((store / ".damaged").iterdir())) == 2


def test_writing_a_damaged_episode_again_mends_it(store: Path) -> None:
    folder = second(store)
    (folder / "action/c/0/0").unlink()
    EpisodeWriter(store, SPEC).write(make_episode(2))
    assert verify(store).intact
    assert EpisodeStore(store).seeds == [1, 2, 3]


def test_repair_continues_where_a_killed_repair_stopped(store: Path) -> None:
    folder = second(store)
    (store / ".damaged").mkdir()
    shutil.move(folder, store / ".damaged" / folder.name)  # moved, and killed before the line was written
    assert repair(store).set_aside == [folder.name]
    assert EpisodeStore(store).seeds == [1, 3]


@pytest.mark.parametrize("file", ["manifest.json", "action/c/0/0", "labels/zarr.json"])
@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink])
def test_an_unindexed_folder_is_recovered_when_whole_and_set_aside_when_not(store: Path, file: str, damage) -> None:
    whole, partial = sorted((store / "episodes").iterdir())[1:]
    (store / "index.jsonl").write_bytes((store / "index.jsonl").read_bytes().splitlines(keepends=True)[1])
    damage(partial / file)
    assert verify(store).unindexed == [whole.name, partial.name]
    done = repair(store)
    assert (done.recovered, done.set_aside) == ([whole.name], [partial.name])
    assert EpisodeStore(store).seeds == [1, 2]


def test_a_replacement_whose_line_was_lost_replaces_again_after_repair(store: Path) -> None:
    changed = make_episode(2)
    changed.action += 1
    EpisodeWriter(store, SPEC).replace(EpisodeStore(store).episodes[1], changed)
    flip_a_bit(store / "index.jsonl", 0.99)
    repair(store)
    opened = EpisodeStore(store)
    assert opened.seeds == [1, 2, 3]
    assert (opened.read(opened.episodes[1]).action == changed.action).all()


def test_verify_of_something_else_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(S2RobotError, match=r"no episode store at .*; give the folder that holds spec.json"):
        verify(tmp_path)
