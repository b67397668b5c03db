"""The wire format against frames that no client of ours would send."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpi_client import msgpack_numpy

from s2robot.deploy.wire import (
    Request,
    WireError,
    most_bytes,
    pack,
    read_hello,
    read_reply,
    read_request,
    reply_frame,
    request_frame,
    unpack,
)
from s2robot.errors import S2RobotError
from s2robot.types import Observation
from tests.deploy.tiny_bundle import OBSERVATION, PX

IMAGE = np.full((PX, PX, 3), 7, np.uint8)
SEEN = Observation({"front": IMAGE}, np.arange(3, dtype=np.float32), np.zeros(2, np.float32), 0.0)
GOOD = Request(SEEN, id=5, reset=True, budget_ms=80.0, seed=9)
FRAME = request_frame(GOOD)


def test_a_request_comes_out_as_it_went_in() -> None:
    found = read_request(FRAME, OBSERVATION)
    assert (found.id, found.reset, found.budget_ms, found.seed) == (5, True, 80.0, 9)
    np.testing.assert_array_equal(found.observation.images["front"], GOOD.observation.images["front"])
    np.testing.assert_array_equal(found.observation.proprio, GOOD.observation.proprio)


def test_the_fields_client_and_ours_write_the_same_bytes_of_an_array() -> None:
    array = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    assert pack(array) == msgpack_numpy.packb(array)
    np.testing.assert_array_equal(msgpack_numpy.unpackb(reply_frame(array["a"], 1, {"x": 1.0}))["actions"], array["a"])


@settings(max_examples=500)
@given(st.binary(max_size=300))
def test_random_bytes_give_the_documented_error_alone(frame: bytes) -> None:
    for read in (lambda: read_request(frame, OBSERVATION), lambda: read_reply(frame), lambda: read_hello(frame)):
        with pytest.raises(WireError, match=r"."):
            read()


@settings(max_examples=500)
@given(st.integers(0, len(FRAME) - 1), st.integers(0, 255), st.integers(0, 40), st.booleans())
def test_a_mutated_request_is_read_or_refused(place: int, byte: int, cut: int, near_the_front: bool) -> None:
    """A byte changed, some cut off: never another error, never an observation of another shape."""
    frame = bytearray(FRAME)
    frame[place % 120 if near_the_front else place] = byte
    try:
        found = read_request(bytes(frame[: len(frame) - cut]), OBSERVATION)
    except WireError:
        return
    assert found.observation.images["front"].shape == (PX, PX, 3)
    assert found.observation.proprio.shape == (3,)
    assert np.isfinite(found.observation.proprio).all()


def array(**changes: Any) -> dict[bytes, Any]:
    return {b"__ndarray__": True, b"data": bytes(12), b"dtype": "<f4", b"shape": [3]} | {
        key.encode(): value for key, value in changes.items()
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (array(dtype="|O"), "dtype '|O'"),
        (array(dtype="<U1"), "dtype"),
        (array(dtype=[["a", "<f4"]]), "dtype"),
        (array(dtype=None), "dtype"),
        (array(shape=[2**40]), "shape"),
        (array(shape=[-1]), "shape"),
        (array(shape=[1, 1, 1, 1, 3]), "shape"),
        (array(shape=[True, 3]), "shape"),
        (array(shape="3"), "shape"),
        (array(shape=[2**20, 2**20, 2**20]), "bytes"),
        (array(data=bytes(11)), "12 bytes"),
        (array(data="text"), "12 bytes"),
        (array(data=np.array([0, np.nan, 0], "<f4").tobytes()), "not finite"),
        (array(dtype="<f8", data=np.array([0, 1e300, 0], "<f8").tobytes()), "not finite"),
        (array(shape=[4], data=bytes(16)), r"float32 \(4,\)"),
        ({b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}, "no number"),
        (3.0, "none came"),
        (None, "nothing came"),
    ],
)
def test_arrays_that_lie_are_refused(value: Any, message: str) -> None:
    frame = msgpack.packb(msgpack.unpackb(FRAME, strict_map_key=False) | {"proprio": value})
    with pytest.raises(WireError, match=message.replace("|", r"\|")):
        read_request(frame, OBSERVATION)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": -1}, "id is no whole number"),
        ({"id": 1.5}, "id is no whole number"),
        ({"id": True}, "id is no whole number"),
        ({"budget_ms": float("nan")}, "budget_ms"),
        ({"budget_ms": "soon"}, "budget_ms"),
        ({"reset": 1}, "reset"),
        ({"images/rear": 1}, "unknown key 'images/rear'.*did you mean 'images/front'"),
        ({"k" * 5000: 1}, "unknown key"),
        ({7: 1}, "text keys"),
    ],
)
def test_fields_that_make_no_sense_are_named(change: dict[Any, Any], message: str) -> None:
    frame = msgpack.packb(msgpack.unpackb(FRAME, strict_map_key=False) | change)
    with pytest.raises(WireError, match=message) as caught:
        read_request(frame, OBSERVATION)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "frame",
    [
        b"\x91" * 8000,  # nested lists
        b"\xdd\xff\xff\xff\xff",  # a list of four billion
        b"\xdf\xff\xff\xff\xff",  # a map of four billion
        b"\xc6\xff\xff\xff\xff",  # as many bytes
        b"\xc9\xff\xff\xff\xff\x01",  # an extension type
        b"\xdc\x03\xff" + b"\x90" * 8000,  # many small lists
    ],
)
def test_frames_that_promise_much_cost_little(frame: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match=r"msgpack|map|text keys"):
            unpack(frame, most_bytes(OBSERVATION))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_frame_above_the_limit_is_not_even_parsed() -> None:
    with pytest.raises(WireError, match="at most"):
        read_request(bytes(most_bytes(OBSERVATION) + 1), OBSERVATION)
    with pytest.raises(WireError, match="text frame"):
        read_request("hello", OBSERVATION)


def test_errors_of_the_server_come_in_its_own_words() -> None:
    with pytest.raises(S2RobotError, match="superseded"):
        read_reply('{"error": "superseded"}')
