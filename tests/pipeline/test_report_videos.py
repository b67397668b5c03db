"""Clips and contact sheets, decoded again: what is where, and that browsers can play it."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from s2robot.errors import S2RobotError
from s2robot.pipeline.report.videos import contact_sheet, side_by_side, spread, write_mp4


def frames(count: int, shade: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    return [np.full((*size, 3), shade + 10 * i, np.uint8) for i in range(count)]


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_clip_shows_successes_left_in_green_and_failures_right_in_red(tmp_path):
    side_by_side([frames(4, 100), frames(6, 100)], [frames(9, 40)], tmp_path / "clip.mp4")
    clip = decoded(tmp_path / "clip.mp4")
    assert len(clip) == 9 + 6
    height, width, _ = clip[0].shape
    left, right = clip[0][height // 2, 2].astype(int), clip[0][height // 2, width - 3].astype(int)
    assert left.argmax() == 1
    assert right.argmax() == 0
    assert clip[0][height // 2, width // 4].mean() == pytest.approx(100, abs=4)
    assert clip[8][height // 2, width // 4].mean() == pytest.approx(130, abs=4)  # held on its last frame
    assert clip[8][height // 2, 3 * width // 4].mean() == pytest.approx(120, abs=4)
    assert np.ptp(clip[12][height // 2, width - 3].astype(int)) < 30  # no second failure: grey


def test_a_noisy_clip_is_compressed_until_it_fits(tmp_path):
    noise = list(np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), dtype=np.uint8))
    side_by_side([noise], [], tmp_path / "free.mp4")
    size = (tmp_path / "free.mp4").stat().st_size
    side_by_side([noise], [], tmp_path / "small.mp4", max_bytes=size // 2)
    assert (tmp_path / "small.mp4").stat().st_size <= size // 2
    with pytest.raises(S2RobotError, match=r"need \d+ bytes even at the lowest quality, more than 100; give fewer"):
        side_by_side([noise], [], tmp_path / "never.mp4", max_bytes=100)
    assert not (tmp_path / "never.mp4").exists()


def test_frames_of_odd_size_become_a_video_that_browsers_play(tmp_path):
    write_mp4(iter(frames(7, 90, size=(45, 63))), tmp_path / "odd.mp4", fps=10)
    with av.open(str(tmp_path / "odd.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 7)
        assert (stream.width, stream.height, stream.average_rate) == (64, 46, 10)
    data = (tmp_path / "odd.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # the index first, so that playing starts while loading


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "no frames; record a rollout first"),
        ([np.zeros((4, 4, 3), np.float32)], r"frame of float32 \(4, 4, 3\) .* give uint8 \(h, w, 3\)"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((6, 4, 3), np.uint8)], r"\(6, 4, 3\) among frames of \(4, 4, 3\)"),
    ],
)
def test_frames_that_make_no_video_are_refused_and_nothing_is_left(tmp_path, bad, message):
    with pytest.raises(S2RobotError, match=message):
        write_mp4(bad, tmp_path / "bad.mp4")
    assert not list(tmp_path.iterdir())


def test_a_clip_without_any_rollout_is_refused(tmp_path):
    with pytest.raises(S2RobotError, match="a clip needs at least one rollout, and each at least one frame"):
        side_by_side([], [[]], tmp_path / "none.mp4")


def test_a_contact_sheet_places_frames_row_by_row(tmp_path):
    contact_sheet(spread(frames(9, 10), 5), tmp_path / "sheet.png", columns=3, gap=4)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 48 + 4, 3 * 64 + 8, 3)
    corners = [sheet[0, 0, 0], sheet[0, 68, 0], sheet[0, 136, 0], sheet[52, 0, 0], sheet[52, 68, 0]]
    assert corners == [10, 30, 50, 70, 90]
    assert sheet[50, 0, 0] == sheet[0, 66, 0] == sheet[52, 136, 0] == 255
