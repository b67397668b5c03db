"""What is in an episode store, for a person to look at before training on it: numbers, a contact sheet, a video.

Dims: t time steps, h w image height and width (px).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from s2robot.data.episodes import EpisodeStore
from s2robot.data.windows import flatten
from s2robot.errors import S2RobotError
from s2robot.storage import write_atomic, write_json
from s2robot.types import Episode

ROWS, THUMBNAIL_PX, LABEL_PX = 8, 112, 150


@dataclass(frozen=True)
class Spread:
    """Range of one named element over all steps, in the unit that its name says."""

    name: str
    low: float
    mean: float
    high: float
    std: float


@dataclass(frozen=True)
class DatasetReport:
    """The numbers of `report`; `cameras` are [height, width] in px, `steps` is [least, median, most]."""

    task: str
    source: str
    dataset_fingerprint: str
    episodes: int
    success_rate: float
    ends: dict[str, int]
    seeds: list[int]
    steps: list[float]
    duration_s: float
    bytes: int
    cameras: dict[str, list[int]]
    action: list[Spread]
    proprio: list[Spread]
    beyond_limits: dict[str, int]

    def markdown(self) -> str:
        """A page for people."""
        lines = [
            f"# {self.task}: {self.episodes} episodes",
            "",
            f"- success rate {self.success_rate:.3f}; ends: {', '.join(f'{k} {n}' for k, n in self.ends.items())}",
            f"- steps per episode: {self.steps[0]:g} to {self.steps[2]:g}, median {self.steps[1]:g}; "
            f"{self.duration_s:.0f} s in all",
            f"- seeds {self.seeds[0]} to {self.seeds[1]}; {self.bytes / 1e6:.1f} MB; from {self.source or 'unknown'}",
            *(f"- camera {name}: {h} x {w} px" for name, (h, w) in self.cameras.items()),
            *(f"- **{n} steps of action {name} lie beyond its limits**" for name, n in self.beyond_limits.items()),
            f"- dataset fingerprint {self.dataset_fingerprint}",
        ]
        for title, rows in (("Action", self.action), ("Proprioception", self.proprio)):
            lines += ["", f"## {title}", "", "| element | min | mean | max | std |", "|---|---|---|---|---|"]
            lines += [f"| {r.name} | {r.low:.4g} | {r.mean:.4g} | {r.high:.4g} | {r.std:.4g} |" for r in rows]
        return "\n".join(
            [*lines, "", "![frames](contact_sheet.png)", "", f"[episode of seed {self.seeds[0]}](sample.mp4)", ""]
        )


def report(store: EpisodeStore, out: str | Path) -> DatasetReport:
    """Write report.json, report.md and, for stores with cameras, contact_sheet.png and sample.mp4 into `out`.

    Raises DamagedError when an episode that is looked at is damaged.
    """
    folder = Path(out)
    numbers = summarise(store)
    write_json(folder / "report.json", asdict(numbers))
    write_atomic(folder / "report.md", numbers.markdown().encode())
    if store.spec.observation.cameras:
        every = max(1, -(-len(store) // ROWS))
        write_atomic(folder / "contact_sheet.png", contact_sheet([store.read(e) for e in store.episodes[::every]]))
        sample = store.read(store.episodes[0])
        write_atomic(folder / "sample.mp4", video(side_by_side(sample), store.spec.action.rate_hz))
    return numbers


def summarise(store: EpisodeStore) -> DatasetReport:
    """Counts and ranges, from the small arrays of every episode."""
    flat, spec = flatten(store), store.spec
    entries = [store.entry(episode) for episode in store.episodes]
    low, high = np.array(spec.action.low, np.float32), np.array(spec.action.high, np.float32)
    beyond = ((flat.action < low) | (flat.action > high)).sum(0)
    return DatasetReport(
        task=spec.task,
        source=spec.source,
        dataset_fingerprint=store.dataset_fingerprint(),
        episodes=len(entries),
        success_rate=sum(entry.success for entry in entries) / len(entries),
        ends=dict(sorted(Counter(entry.end for entry in entries).items())),
        seeds=[min(store.seeds), max(store.seeds)],
        steps=[float(f(flat.lengths)) for f in (np.min, np.median, np.max)],
        duration_s=len(flat.action) / spec.action.rate_hz,
        bytes=store.size_bytes(),
        cameras={camera.name: [camera.height, camera.width] for camera in spec.observation.cameras},
        action=_spreads(spec.action.names, flat.action),
        proprio=_spreads(spec.observation.proprio, flat.proprio),
        beyond_limits={name: int(n) for name, n in zip(spec.action.names, beyond, strict=True) if n},
    )


def _spreads(names: Sequence[str], values: np.ndarray) -> list[Spread]:
    columns = values.astype(np.float64).T
    return [
        Spread(name, float(x.min()), float(x.mean()), float(x.max()), float(x.std()))
        for name, x in zip(names, columns, strict=True)
    ]


def contact_sheet(episodes: Sequence[Episode]) -> bytes:
    """A PNG with one row per episode: its first, middle and last frame of each camera."""
    from PIL import Image, ImageDraw

    columns = 3 * len(episodes[0].images)
    sheet = Image.new("RGB", (LABEL_PX + columns * THUMBNAIL_PX, len(episodes) * THUMBNAIL_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for row, episode in enumerate(episodes):
        label = f"seed {episode.seed}\n{len(episode)} steps\n{episode.end}\nsuccess: {episode.success}"
        draw.text((6, row * THUMBNAIL_PX + 6), label, fill="black")
        moments = (0, (len(episode) - 1) // 2, len(episode) - 1)
        frames = [images[t] for images in episode.images.values() for t in moments]
        for column, frame in enumerate(frames):
            picture = Image.fromarray(frame)
            picture.thumbnail((THUMBNAIL_PX - 2, THUMBNAIL_PX - 2))
            sheet.paste(picture, (LABEL_PX + column * THUMBNAIL_PX, row * THUMBNAIL_PX))
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def side_by_side(episode: Episode) -> UInt8[np.ndarray, "t h w 3"]:
    """The cameras of an episode next to each other; smaller ones stand on black."""
    height = max(frames.shape[1] for frames in episode.images.values())
    padded = [
        np.pad(frames, ((0, 0), (0, height - frames.shape[1]), (0, 0), (0, 0))) for frames in episode.images.values()
    ]
    return np.concatenate(padded, axis=2)


def video(frames: UInt8[np.ndarray, "t h w 3"], rate_hz: float) -> bytes:
    """An mp4 (H.264 where this PyAV can write it). Raises S2RobotError when it can write none."""
    import av

    codec = next((name for name in ("libx264", "libopenh264", "mpeg4") if name in av.codecs_available), None)
    if codec is None:
        raise S2RobotError("this PyAV writes neither H.264 nor MPEG-4 video; install the one from PyPI: pip install av")
    even = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(rate_hz).limit_denominator(1000))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
