"""What goes over the websocket: msgpack with numpy arrays as `openpi-client` writes them, and nothing else.

A frame comes from a stranger until it is parsed: sizes are bounded before anything is decoded, arrays have one of a few
dtypes and exactly as many bytes as their shape says, and no code is ever chosen by it (no pickle, no extension types).

Dims: h w frame (px), p proprioception, g goal, k chunk, a action.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import msgpack
import numpy as np

from s2robot.deploy.bundle import Decisions, Identity
from s2robot.deploy.parse import parse
from s2robot.errors import S2RobotError, unknown_name
from s2robot.types import Observation, ObservationSpec

PROTOCOL = 1
DTYPES = ("|u1", "<f4", "<f8")
SLACK_BYTES = 16_384  # of a request beside its frames
MOST_KEYS, MOST_DIMENSIONS, MOST_TEXT = 32, 4, 256
LONGEST_REPLY = 1 << 22
Code = Literal["bad_request", "superseded", "late", "draining", "internal"]


class WireError(S2RobotError):
    """A frame that is not what the protocol allows. The message names what came and what is allowed."""


@dataclass(frozen=True)
class Request:
    """One observation to decide on.

    `id` comes back with the answer; `budget_ms` after its arrival an answer is of no use to the sender any more;
    `reset` says that an episode begins; (`seed`, `id`) seed the noise of a sampling policy.
    """

    observation: Observation
    id: int = 0
    reset: bool = False
    budget_ms: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Hello:
    """The server's first frame: who it is."""

    protocol: Literal[1]
    identity: Identity
    decisions: Decisions
    task: str


def most_bytes(spec: ObservationSpec) -> int:
    """The largest request that can be valid."""
    return sum(3 * camera.height * camera.width for camera in spec.cameras) + SLACK_BYTES


def pack(message: Mapping[str, Any]) -> bytes:
    """One frame."""
    return msgpack.packb(message, default=_array_out)


def unpack(frame: bytes | str, most: int) -> dict[str, Any]:
    """One frame. Raises WireError for anything but a map of text keys to scalars, short texts and arrays."""
    if isinstance(frame, str):
        raise WireError("a text frame came; requests are binary msgpack frames")
    if len(frame) > most:
        raise WireError(f"a frame of {len(frame)} bytes came; at most {most} are allowed")
    try:
        message = msgpack.unpackb(
            frame, object_hook=_array_in, strict_map_key=False, max_str_len=most, max_bin_len=most,
            max_array_len=1024, max_map_len=MOST_KEYS, max_ext_len=0,
        )  # fmt: skip
    except WireError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        raise WireError(f"the frame is no valid msgpack ({type(error).__name__})") from error
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise WireError("the frame is no map with text keys")
    return message


def request_frame(request: Request) -> bytes:
    """A request as it is sent."""
    seen = request.observation
    message: dict[str, Any] = {f"images/{camera}": frame for camera, frame in seen.images.items()}
    message |= {"proprio": seen.proprio, "goal": seen.goal, "id": request.id, "reset": request.reset}
    message |= {"seed": request.seed} | ({} if request.budget_ms is None else {"budget_ms": request.budget_ms})
    return pack(message)


def read_request(frame: bytes | str, spec: ObservationSpec) -> Request:
    """A request for a policy that sees `spec`. Raises WireError naming the first key that is missing or wrong."""
    message = unpack(frame, most_bytes(spec))
    images = {f"images/{camera.name}": (camera.height, camera.width, 3) for camera in spec.cameras}
    vectors = {"proprio": (len(spec.proprio),), "goal": (len(spec.goal),)}
    for key in message:
        if key not in {*images, *vectors, "id", "reset", "budget_ms", "seed"}:
            raise WireError(str(unknown_name("key", key[:MOST_TEXT], [*images, *vectors, "id", "reset", "budget_ms"])))
    arrays = {key: _array(message, key, np.uint8, shape) for key, shape in images.items()}
    if not spec.goal:
        message.setdefault("goal", np.zeros(0, np.float32))
    arrays |= {key: _array(message, key, np.float32, shape) for key, shape in vectors.items()}
    budget_ms = message.get("budget_ms")
    if budget_ms is not None:
        budget_ms = _number(message, "budget_ms", 0.0, 3.6e6)
    reset = message.get("reset", False)
    if not isinstance(reset, bool):
        raise WireError(f"reset is {type(reset).__name__}; true or false is needed")
    frames = {camera.name: arrays[f"images/{camera.name}"] for camera in spec.cameras}
    return Request(
        Observation(frames, arrays["proprio"], arrays["goal"], time_s=0.0),
        id=_integer(message, "id"), reset=reset, budget_ms=budget_ms, seed=_integer(message, "seed"),
    )  # fmt: skip


def reply_frame(actions: np.ndarray, id: int, timing_ms: Mapping[str, float]) -> bytes:
    """An answer: the chunk (k, a) in the units of the action spec, and how long what took."""
    return pack({"actions": np.asarray(actions, np.float32), "id": id, "server_timing": dict(timing_ms)})


def read_reply(frame: bytes | str) -> tuple[Any, int]:
    """The chunk and the id of an answer; whether the chunk is any good is the gate's business.

    Raises WireError for what is no answer, S2RobotError with the server's words for an error.
    """
    if isinstance(frame, str):
        raise S2RobotError(f"the server answers: {frame[:MOST_TEXT]}")
    message = unpack(frame, LONGEST_REPLY)
    if "actions" not in message:
        raise WireError("the answer holds no actions")
    return message["actions"], _integer(message, "id")


def error_text(code: Code, message: str, id: int | None = None) -> str:
    """An error as it is sent: a text frame, which the field's client raises."""
    return json.dumps({"error": code, "message": message, "id": id})


def hello_frame(hello: Hello) -> bytes:
    """The first frame of a connection."""
    return pack({"protocol": hello.protocol, "s2robot": json.dumps(asdict(hello))})


def read_hello(frame: bytes | str) -> Hello:
    """Raises WireError where the server is no s2robot server of this protocol."""
    message = unpack(frame, LONGEST_REPLY)
    text = message.get("s2robot")
    if not isinstance(text, str):
        raise WireError("the server does not say who it is; is it an s2robot server?")
    try:
        return parse(Hello, json.loads(text), "the server's first frame", "run the same version on both sides")
    except (ValueError, RecursionError) as error:
        raise WireError(str(error)) from error


def _array_out(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.str in DTYPES:
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return value.item()
    raise WireError(f"{type(value).__name__} has no place in a frame")


def _array_in(value: dict[Any, Any]) -> Any:
    if b"__npgeneric__" in value:
        return _scalar_in(value)
    if b"__ndarray__" not in value:
        return value
    dtype, shape, data = value.get(b"dtype"), value.get(b"shape"), value.get(b"data")
    if dtype not in DTYPES:
        raise WireError(f"an array of dtype {str(dtype)[:MOST_TEXT]!r} came; allowed are {', '.join(DTYPES)}")
    sides = shape if isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS else None
    if sides is None or not all(type(side) is int and 0 <= side <= LONGEST_REPLY for side in sides):
        raise WireError(f"an array came whose shape is no list of up to {MOST_DIMENSIONS} sizes")
    bytes_needed = math.prod(sides) * np.dtype(dtype).itemsize
    if not isinstance(data, bytes) or len(data) != bytes_needed:
        raise WireError(f"an array of shape {tuple(sides)} came without the {bytes_needed} bytes that it needs")
    return np.frombuffer(data, dtype).reshape(sides)


def _scalar_in(value: dict[Any, Any]) -> Any:
    found = value.get(b"data")
    if not isinstance(found, bool | int | float):
        raise WireError("a numpy scalar came that is no number")
    return found


def _array(message: Mapping[str, Any], key: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    value = message.get(key)
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype not in (dtype, _wider(dtype)):
        came = (
            f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else "nothing" if value is None else "none"
        )
        raise WireError(f"{key}: {came} came; needed is an array {np.dtype(dtype)} {shape}")
    with np.errstate(over="ignore"):
        value = value.astype(dtype, copy=False)
    if not np.isfinite(value).all():  # of what is used: a float64 may be too large for a float32
        raise WireError(f"{key} is not finite")
    return value


def _wider(dtype: type) -> type:
    return np.float64 if dtype is np.float32 else dtype


def _integer(message: Mapping[str, Any], key: str) -> int:
    value = message.get(key, 0)
    if type(value) is not int or not 0 <= value < 2**53:
        raise WireError(f"{key} is no whole number from 0 to 2^53")
    return value


def _number(message: Mapping[str, Any], key: str, low: float, high: float) -> float:
    value = message.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise WireError(f"{key} is no number from {low:g} to {high:g}")
    return float(value)
