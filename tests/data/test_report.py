"""The report says what is in the store, and the commands say what they found."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from tiny_episodes import make_episode

from s2robot.cli.main import main
from s2robot.data.episodes import EpisodeStore
from s2robot.data.features import FeatureCache, FeatureKey
from s2robot.data.report import contact_sheet, report, side_by_side, video

av = pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")


def test_the_numbers_are_those_of_the_episodes(store: Path, tmp_path: Path) -> None:
    opened = EpisodeStore(store)
    report(opened, tmp_path / "out")
    found = json.loads((tmp_path / "out/report.json").read_text())
    action = np.concatenate([make_episode(seed).action for seed in (1, 2, 3)])
    assert found["episodes"] == 3
    assert found["success_rate"] == pytest.approx(2 / 3)
    assert found["ends"] == {"horizon": 1, "success": 2}
    assert found["steps"] == [6, 6, 6]
    assert found["duration_s"] == pytest.approx(18 / 20)
    assert found["cameras"] == {"front": [20, 24], "wrist": [16, 16]}
    assert found["action"][1]["high"] == pytest.approx(action[:, 1].max())
    assert found["beyond_limits"]["dx"] == (np.abs(action[:, 0]) > np.float32(0.05)).sum()
    assert found["bytes"] == sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    assert "| gripper_m |" in (tmp_path / "out/report.md").read_text()


def test_the_contact_sheet_shows_first_middle_and_last_frame_of_every_camera() -> None:
    episode = make_episode(1)
    sheet = np.asarray(Image.open(BytesIO(contact_sheet([episode, episode]))))
    assert sheet.shape == (2 * 112, 150 + 6 * 112, 3)
    for column, frame in enumerate([episode.images["front"][t] for t in (0, 2, 5)]):
        np.testing.assert_array_equal(sheet[112:132, 150 + 112 * column :][:, :24], frame)


def test_the_video_has_every_step_at_the_rate_of_the_robot() -> None:
    frames = np.zeros((6, 21, 33, 3), np.uint8)
    frames[3:] = 200
    with av.open(BytesIO(video(frames, rate_hz=20.0))) as container:
        assert container.streams.video[0].average_rate == 20
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [int(frame.mean() > 100) for frame in decoded] == [0, 0, 0, 1, 1, 1]
    assert decoded[0].shape == (22, 34, 3)


def test_cameras_of_different_size_stand_side_by_side() -> None:
    episode = make_episode(1)
    both = side_by_side(episode)
    assert both.shape == (6, 20, 40, 3)
    np.testing.assert_array_equal(both[:, :16, 24:], episode.images["wrist"])


def test_the_commands_verify_repair_and_report(store: Path, tmp_path: Path, capsys) -> None:
    assert main(["data", "verify", f"store={store}"]) == 0
    assert "3 episodes" in capsys.readouterr().out
    episode = EpisodeStore(store).episodes[1]
    (store / "episodes" / episode / "action/c/0/0").unlink()
    assert main(["data", "verify", f"store={store}"]) == 2
    printed = capsys.readouterr()
    assert f"{episode}: action/c/0/0 is missing" in printed.out
    assert f"1 of 3 episodes and 0 index lines of {store} are damaged; mend with `s2robot data rep" in printed.err
    assert main(["data", "repair", f"store={store}"]) == 0
    assert main(["data", "verify", f"store={store}"]) == 0
    assert main(["data", "report", f"store={store}", f"out={tmp_path / 'out'}"]) == 0
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {"report.json", "report.md", "contact_sheet.png", "sample.mp4"}


@pytest.mark.parametrize("verb", ["verify", "repair", "report"])
def test_a_folder_that_is_no_store_is_one_line_and_status_two(verb: str, tmp_path: Path, capsys) -> None:
    assert main(["data", verb, f"store={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: no episode store at {tmp_path}; ")
    assert error.count("\n") == 1


def test_the_commands_list_and_prune_the_cache(tmp_path: Path, capsys) -> None:
    cache = FeatureCache(tmp_path)
    for name in ("tiny", "large"):
        key = FeatureKey(encoder=name[0] * 64, episode="a" * 64, camera="front")
        cache.put(key, np.zeros((2, 4, 3), np.float16), (2, 2), encoder_name=name)
    assert main(["cache", "list", f"cache={tmp_path}"]) == 0
    assert "2 encoders cached" in capsys.readouterr().out
    assert main(["cache", "prune", f"cache={tmp_path}"]) == 2
    assert main(["cache", "prune", f"cache={tmp_path}", "keep=[tiny]", "dry_run=true"]) == 0
    assert "1 encoders would be deleted" in capsys.readouterr().out
    assert main(["cache", "prune", f"cache={tmp_path}", "keep=tiny"]) == 0
    assert [line.name for line in cache.list()] == ["tiny"]
    assert main(["cache", "list", f"cache={tmp_path / 'nowhere'}"]) == 2
