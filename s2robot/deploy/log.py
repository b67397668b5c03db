"""The log of a run: MCAP that ROS 2 tools read, one entry per tick, written before the tick's command is sent.

Topics: `/s2robot/plan` (what the run is made of, JSON), `/s2robot/tick`, `/s2robot/chunk`, `/s2robot/event`,
`/camera/<name>/compressed` (the pictures that were decided on, PNG). Every entry goes to the file system at once, so
that a killed loop leaves all that it did; a reader stops at a torn end.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from mcap.exceptions import EndOfFile
from mcap.reader import NonSeekingReader
from mcap.writer import CompressionType
from mcap_ros2.decoder import DecoderFactory
from mcap_ros2.writer import Writer

from s2robot.deploy.brain import Plan, Step
from s2robot.deploy.gate import Decision, Sense, Sight
from s2robot.errors import DamagedError, S2RobotError
from s2robot.storage import disk_error

PLAN, TICK, CHUNK, EVENT = "/s2robot/plan", "/s2robot/tick", "/s2robot/chunk", "/s2robot/event"
SCHEMAS = {
    PLAN: ("std_msgs/msg/String", "string data"),
    TICK: (
        "s2robot_msgs/msg/Tick",
        "int64 tick\nfloat64 now_s\nbool sent\nbool held\nstring fault\nstring[] reasons\nfloat64[] proposal\n"
        "float64[] command\nfloat64[] proprio\nfloat64 proprio_received_s\nstring[] cameras\nint64[] camera_counter\n"
        "float64[] camera_stamp_s\nfloat64[] camera_received_s\nint64[] camera_digest",
    ),
    CHUNK: (
        "s2robot_msgs/msg/Chunk",
        "int64 id\nint64 at\nfloat64 now_s\nfloat64 captured_s\nfloat64 asked_s\nstring verdict\nstring dtype\n"
        "int64[] shape\nuint8[] data",
    ),
    EVENT: ("s2robot_msgs/msg/Event", "float64 now_s\nstring kind\nstring text"),
}
IMAGE = (
    "sensor_msgs/msg/CompressedImage",
    "std_msgs/Header header\nstring format\nuint8[] data\n" + "=" * 80 + "\nMSG: std_msgs/Header\n"
    "builtin_interfaces/Time stamp\nstring frame_id\n" + "=" * 80 + "\nMSG: builtin_interfaces/Time\n"
    "int32 sec\nuint32 nanosec",
)


@dataclass(frozen=True)
class Arrival:
    """A chunk as it came: `at` the tick of its observation, whose oldest part arrived at `captured_s`, asked for at
    `asked_s` (local monotonic clock).
    """

    id: int
    at: int
    captured_s: float
    asked_s: float
    chunk: Any


@dataclass(frozen=True)
class TickEntry:
    """What a tick was decided on and what came of it."""

    now_s: float
    sense: Sense
    step: Step
    fault: str
    sent: bool


@dataclass(frozen=True)
class ChunkEntry:
    """A chunk, and why it was of no use (empty where it was)."""

    now_s: float
    arrival: Arrival
    verdict: str


@dataclass(frozen=True)
class EventEntry:
    """Everything else: connected, armed, latched, re-armed, lost, stopped."""

    now_s: float
    kind: str
    text: str


@dataclass(frozen=True)
class PictureEntry:
    """A picture that was decided on."""

    now_s: float
    camera: str
    png: bytes

    def decode(self) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels, as they were."""
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(self.png)).convert("RGB"))


Entry = TickEntry | ChunkEntry | EventEntry | PictureEntry


class LogWriter:
    """Writes a new file. Raises S2RobotError where one exists, and where the disk is full, after which nothing more may
    be commanded.
    """

    def __init__(self, path: Path, plan: Plan, about: Mapping[str, Any]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: io.BufferedWriter = open(path, "xb")  # noqa: SIM115
        except FileExistsError as error:
            raise S2RobotError(f"log {path} exists already; give another log=, nothing is overwritten") from error
        except OSError as error:
            raise disk_error(error, path) from error
        self.path = path
        # Every message a chunk of its own: what is written is in the file, not in this process.
        self._writer = Writer(self._file, chunk_size=1, compression=CompressionType.NONE)
        # The writer keeps 500 bytes a message for an index at the end, and has no switch for it: a long run would grow.
        self._index: list[Any] = getattr(self._writer._writer, "_Writer__chunk_indices", [])
        self._schemas: dict[str, Any] = {}
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._write(PLAN, {"data": json.dumps({"plan": plan.to_json(), **about})}, time.monotonic())

    def tick(self, entry: TickEntry) -> None:
        """Before the command is sent."""
        sense, decision = entry.sense, entry.step.decision
        names = sorted(sense.cameras)
        sights = [sense.cameras[name] for name in names]
        message = {
            "tick": entry.step.tick,
            "now_s": entry.now_s,
            "sent": entry.sent,
            "held": decision.held,
            "fault": entry.fault,
            "reasons": list(decision.reasons),
            "proposal": list(entry.step.proposal or ()),
            "command": list(decision.command),
            "proprio": list(sense.proprio),
            "proprio_received_s": sense.received_s,
            "cameras": names,
            "camera_counter": [sight.counter for sight in sights],
            "camera_stamp_s": [sight.stamp_s for sight in sights],
            "camera_received_s": [sight.received_s for sight in sights],
            "camera_digest": [sight.digest for sight in sights],
        }
        self._write(TICK, message, entry.now_s)

    def chunk(self, entry: ChunkEntry) -> None:
        """As it came, whatever it is."""
        arrival = entry.arrival
        array = arrival.chunk if isinstance(arrival.chunk, np.ndarray) else None
        message = {
            "id": arrival.id,
            "at": arrival.at,
            "now_s": entry.now_s,
            "captured_s": arrival.captured_s,
            "asked_s": arrival.asked_s,
            "verdict": entry.verdict,
            "dtype": array.dtype.str if array is not None else "",
            "shape": list(array.shape) if array is not None else [],
            "data": array.tobytes() if array is not None else b"",
        }
        self._write(CHUNK, message, entry.now_s)

    def event(self, entry: EventEntry) -> None:
        """Whenever something happens that is neither."""
        self._write(EVENT, {"now_s": entry.now_s, "kind": entry.kind, "text": entry.text}, entry.now_s)

    def picture(self, entry: PictureEntry) -> None:
        """After the decision on it was asked for: packing it takes longer than a tick may."""
        ns = int(entry.now_s * 1e9) + self._offset_ns
        stamp = {"sec": ns // 10**9, "nanosec": ns % 10**9}
        message = {"header": {"stamp": stamp, "frame_id": entry.camera}, "format": "png", "data": entry.png}
        self._write(f"/camera/{entry.camera}/compressed", message, entry.now_s, IMAGE)

    def close(self) -> None:
        """Finish the file. Raises S2RobotError where the disk is full; what was written before stays readable. Does
        nothing after `abandon`.
        """
        if self._file.closed:
            return
        try:
            self._writer.finish()
            self._file.close()
        except OSError as error:
            raise disk_error(error, self.path) from error

    def abandon(self) -> None:
        """Close without finishing, after a write that failed."""
        with contextlib.suppress(OSError):  # what could not be written then cannot be written now
            self._file.close()

    def _write(
        self, topic: str, message: Mapping[str, Any], now_s: float, schema: tuple[str, str] | None = None
    ) -> None:
        name, text = schema or SCHEMAS[topic]
        try:
            if name not in self._schemas:
                self._schemas[name] = self._writer.register_msgdef(name, text)
            self._writer.write_message(topic, self._schemas[name], message, int(now_s * 1e9) + self._offset_ns)
            self._index.clear()
            self._file.flush()
        except OSError as error:
            raise disk_error(error, self.path) from error


def png(picture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Lossless, quickly."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class LogReader:
    """A log from its beginning to its end, or to where a killed loop left it.

    `about` is what the first entry says beside the plan. Raises DamagedError where there is no plan to begin with.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        first = next(self._messages(), None)
        if first is None or first[0] != PLAN:
            raise DamagedError(f"{path} is no log of `s2robot control`: it does not begin with a plan")
        try:
            self.about: dict[str, Any] = json.loads(first[1].data)
            self.plan = Plan.from_json(self.about.pop("plan"))
        except (ValueError, KeyError, AttributeError) as error:
            raise DamagedError(f"{path}: its plan does not parse ({error})") from error

    def entries(self) -> Iterator[Entry]:
        """In the order in which they were written."""
        # Pictures are stamped by the wall clock alone; any other entry says how far it is from the clock of the loop.
        timed = (stamp_s - message.now_s for _, message, stamp_s in self._messages() if hasattr(message, "now_s"))
        offset_s = next(timed, 0.0)
        for topic, message, stamp_s in self._messages():
            try:
                entry = _entry(topic, message, stamp_s - offset_s)
            except (AttributeError, TypeError, ValueError) as error:
                raise DamagedError(f"{self.path} is damaged ({topic}: {error})") from error
            if entry is not None:
                yield entry

    def _messages(self) -> Iterator[tuple[str, Any, float]]:
        """Topic, message, and when it was written (s, wall clock)."""
        try:
            with open(self.path, "rb") as file:
                reader = NonSeekingReader(file, decoder_factories=[DecoderFactory()])
                # In the order of the file: the clock of a broken loop may go back, its log must not be sorted by it.
                for _, channel, raw, message in reader.iter_decoded_messages(log_time_order=False):
                    yield channel.topic, message, raw.log_time / 1e9
        except EndOfFile:
            return
        except OSError as error:
            raise DamagedError(f"{self.path} cannot be read ({error.strerror})") from error
        except Exception as error:  # of bytes that are damaged, the decoder and its parser of schemas raise anything
            raise DamagedError(f"{self.path} is damaged ({error})") from error


def _entry(topic: str, message: Any, now_s: float) -> Entry | None:
    if topic == TICK:
        return _tick_entry(message)
    if topic == CHUNK:
        return _chunk_entry(message)
    if topic == EVENT:
        return EventEntry(message.now_s, message.kind, message.text)
    if topic.startswith("/camera/"):
        return PictureEntry(now_s, message.header.frame_id, bytes(message.data))
    return None


def _tick_entry(message: Any) -> TickEntry:
    columns = (message.camera_counter, message.camera_stamp_s, message.camera_received_s, message.camera_digest)
    cameras = {name: Sight(*row) for name, *row in zip(message.cameras, *columns, strict=True)}
    sense = Sense(tuple(message.proprio), message.proprio_received_s, cameras)
    decision = Decision(tuple(message.command), tuple(message.reasons), message.held)
    proposal = tuple(message.proposal) or None
    return TickEntry(message.now_s, sense, Step(message.tick, proposal, decision), message.fault, message.sent)


def _chunk_entry(message: Any) -> ChunkEntry:
    chunk = None
    if message.dtype:
        chunk = np.frombuffer(bytes(message.data), np.dtype(message.dtype)).reshape(tuple(message.shape))
    arrival = Arrival(message.id, message.at, message.captured_s, message.asked_s, chunk)
    return ChunkEntry(message.now_s, arrival, message.verdict)
