"""Rollouts to look at: H.264 clips that browsers play, successes beside failures, and a still contact sheet.

Dims: h w image height and width (px), H W those of a framed picture.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from s2robot.errors import S2RobotError
from s2robot.storage import write_atomic

FPS = 5  # decisions per second of a policy that executes four actions at 20 Hz: one frame each is real time
MAX_BYTES = 1_000_000
GREEN, RED, GREY = (0, 128, 84), (196, 32, 32), (90, 90, 96)  # the captions say the same, for who cannot tell them
# In order of preference. MPEG-4 part 2 plays in VLC but in no browser; VP9 in mp4 plays in all current ones.
_ENCODERS = ("libx264", "libopenh264", "libvpx-vp9", "mpeg4")
_BORDER = 5
_CAPTION = 20

Frames = Sequence[UInt8[np.ndarray, "h w 3"]]


def write_mp4(frames: Iterable[UInt8[np.ndarray, "h w 3"]], path: Path, fps: float = FPS, crf: int = 24) -> None:
    """Write uint8 RGB frames of one size as an mp4 (yuv420p, index first, so that it plays while it loads).

    An odd last row or column is doubled, since yuv420p needs even sizes. `crf` is the quality, 18 (fine) to 50 (small).
    Raises S2RobotError when there are no frames, or one is not uint8 (h, w, 3) of the first one's size.
    """
    write_atomic(path, _encode(frames, fps, crf))


def side_by_side(
    successes: Sequence[Frames], failures: Sequence[Frames], path: Path, fps: float = FPS, max_bytes: int = MAX_BYTES
) -> None:
    """Write one clip with successes left in green and failures right in red, pair after pair.

    The shorter rollout of a pair holds its last frame; a side without a rollout says so. Quality is lowered until the
    file fits into `max_bytes`. Raises S2RobotError when there is no rollout at all, one has no frames, or none fits.
    """
    rollouts = [*successes, *failures]
    if not rollouts or not all(len(rollout) for rollout in rollouts):
        raise S2RobotError("a clip needs at least one rollout, and each at least one frame; record frames first")
    blank = np.zeros_like(rollouts[0][0])
    frames = []
    for index, (success, failure) in enumerate(zip_longest(successes, failures)):
        left = _framed(success, blank, GREEN, _caption("success", index, len(successes)))
        right = _framed(failure, blank, RED, _caption("failure", index, len(failures)))
        for step in range(max(len(left), len(right))):
            frames.append(np.hstack([left[min(step, len(left) - 1)], right[min(step, len(right) - 1)]]))
    for crf in (24, 30, 36, 42, 48):
        data = _encode(frames, fps, crf)
        if len(data) <= max_bytes:
            return write_atomic(path, data)
    raise S2RobotError(
        f"{len(frames)} frames of {frames[0].shape[1]} x {frames[0].shape[0]} px need {len(data)} bytes even at the "
        f"lowest quality, more than {max_bytes}; give fewer or smaller rollouts"
    )


def contact_sheet(frames: Frames, path: Path, columns: int = 5, gap: int = 4) -> None:
    """Write frames of one size as a grid in one PNG, row by row, on white.

    Raises S2RobotError when there are no frames or their sizes differ.
    """
    checked = list(_checked(frames))
    columns = min(columns, len(checked))
    rows = -(-len(checked) // columns)
    height, width, _ = checked[0].shape
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, frame in enumerate(checked):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = frame
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="png", optimize=True)
    write_atomic(path, buffer.getvalue())


def spread(frames: Frames, count: int) -> list[np.ndarray]:
    """`count` frames of a rollout at equal distances, the first and the last among them."""
    return [frames[int(i)] for i in np.linspace(0, len(frames) - 1, count).round()]


def _encode(frames: Iterable[np.ndarray], fps: float, crf: int) -> bytes:
    codec = _encoder()
    # The same bytes every time: one thread, and x264 without its AVX-512 code, which reads memory that it never wrote
    # (1 clip in 60 came out different).
    options = {"threads": "1"} | ({} if codec == "mpeg4" else {"crf": str(crf)})
    options |= {"x264-params": "asm=avx2"} if codec == "libx264" else {}
    # A real file, since moving the index to the front means opening it a second time.
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        with av.open(str(clip), mode="w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000), options=options)
            assert isinstance(stream, av.VideoStream)
            stream.pix_fmt = "yuv420p"
            for index, frame in enumerate(_checked(frames)):
                even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
                if index == 0:
                    stream.height, stream.width = even.shape[:2]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
            container.mux(stream.encode())
        return clip.read_bytes()


def _encoder() -> str:
    available = next((name for name in _ENCODERS if name in av.codecs_available), None)
    if available is None:
        raise S2RobotError(f"PyAV has none of the video encoders {', '.join(_ENCODERS)}; pip install --upgrade av")
    return available


def _checked(frames: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    """Pass frames on one by one; a video may be longer than memory."""
    first: tuple[int, ...] | None = None
    for frame in frames:
        first = frame.shape if first is None else first
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != first:
            raise S2RobotError(
                f"frame of {frame.dtype} {frame.shape} among frames of {first}; "
                "give uint8 (h, w, 3) RGB frames of one size"
            )
        yield frame
    if first is None:
        raise S2RobotError("no frames; record a rollout first")


def _framed(
    rollout: Frames | None, blank: np.ndarray, colour: tuple[int, int, int], caption: str
) -> list[UInt8[np.ndarray, "H W 3"]]:
    """A coloured border and a caption around every frame; without a rollout, one grey and empty frame."""
    if rollout is None:
        colour = GREY
    height, width, _ = blank.shape
    canvas = Image.new("RGB", (width + 2 * _BORDER, height + 2 * _BORDER + _CAPTION), colour)
    text = ImageDraw.Draw(canvas)
    text.text((_BORDER + 2, _CAPTION / 2 + 2), caption, fill="white", font=ImageFont.load_default(14), anchor="lm")
    template = np.asarray(canvas)
    framed = []
    for frame in _checked([blank] if rollout is None else rollout):
        picture = template.copy()
        picture[_CAPTION + _BORDER : -_BORDER, _BORDER:-_BORDER] = frame
        framed.append(picture)
    return framed


def _caption(kind: str, index: int, count: int) -> str:
    """Numbered, without a total: what was recorded is a sample of the rollouts."""
    if index < count:
        return f"{kind} {index + 1}"
    return f"no further {kind} recorded" if count else f"no {kind} recorded"
