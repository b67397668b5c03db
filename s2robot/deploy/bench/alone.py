"""Faults on the gate and on the wire alone: thousands in a minute, without a robot, a network or a clock.

Dims: k chunk, a action.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgpack
import numpy as np

from s2robot.deploy.bench.invariants import Verdict, check_journal
from s2robot.deploy.brain import Brain, Plan, Step
from s2robot.deploy.gate import Sense, Sight
from s2robot.deploy.wire import Request, WireError, error_text, read_reply, read_request, reply_frame, request_frame
from s2robot.errors import S2RobotError
from s2robot.types import Observation, ObservationSpec

TICKS, DECIDE_EVERY = 60, 4
BEGINS, LASTS = (8, 20), (1, 25)  # ticks
INSIDE = 1e-9  # rounding of a place


@dataclass(frozen=True)
class Moment:
    """What the brain is told at one tick. A `chunk` comes at every `DECIDE_EVERY`th; `told` is a fault from outside."""

    now_s: float
    sense: Sense
    at: int
    chunk: Any
    captured_s: float
    told: str = ""


Fault = Callable[[Moment, np.random.Generator], Moment]


def _seen(moment: Moment, camera: str, **changes: Any) -> Moment:
    sights = {**moment.sense.cameras, camera: moment.sense.cameras[camera]._replace(**changes)}
    return replace(moment, sense=moment.sense._replace(cameras=sights))


def _measured(moment: Moment, rng: np.random.Generator, value: float) -> Moment:
    proprio = list(moment.sense.proprio)
    proprio[int(rng.integers(len(proprio)))] = value
    return replace(moment, sense=moment.sense._replace(proprio=tuple(proprio)))


def _spoilt(value: float) -> Fault:
    def fault(moment: Moment, rng: np.random.Generator) -> Moment:
        chunk = np.array(moment.chunk)
        chunk[tuple(rng.integers(chunk.shape))] = value
        return replace(moment, chunk=chunk)

    return fault


def _misshapen(moment: Moment, rng: np.random.Generator) -> Moment:
    chunk = moment.chunk
    others = [chunk[:-1], chunk[:, :-1], chunk[None], chunk.astype(np.int64), chunk.tolist(), b"", None, chunk > 0]
    return replace(moment, chunk=others[int(rng.integers(len(others)))])


def _wild(moment: Moment, rng: np.random.Generator) -> Moment:
    return replace(moment, chunk=rng.choice([-1.0, 1.0], moment.chunk.shape).astype(np.float32))


CHUNK_FAULTS: dict[str, Fault] = {
    "chunk NaN": _spoilt(np.nan),
    "chunk infinite": _spoilt(np.inf),
    "chunk huge": _spoilt(1e30),
    "chunk of wrong shape or type": _misshapen,
    "chunk jumps from limit to limit": _wild,
    "chunk of an old picture": lambda m, rng: replace(m, captured_s=m.captured_s - float(rng.uniform(0.2, 5))),
    "chunk of the future": lambda m, rng: replace(m, captured_s=m.now_s + 1.0, at=m.at + 3),
    "chunk planned for other ticks": lambda m, rng: replace(m, at=m.at + int(rng.integers(-20, 20))),
}
# What is measured is wrong in these: nobody can keep an arm in its box by wrong places, but speeds still hold.
SENSE_FAULTS: dict[str, Fault] = {
    "proprioception NaN": lambda m, rng: _measured(m, rng, float("nan")),
    "proprioception infinite": lambda m, rng: _measured(m, rng, float("-inf")),
    "proprioception jumps": lambda m, rng: _measured(m, rng, float(rng.normal(0, 1))),
    "proprioception too short": lambda m, rng: replace(m, sense=m.sense._replace(proprio=m.sense.proprio[:-1])),
    "proprioception old": lambda m, rng: replace(m, sense=m.sense._replace(received_s=m.now_s - 0.3)),
}
OTHER_FAULTS: dict[str, Fault] = {
    "camera old": lambda m, rng: _seen(m, next(iter(m.sense.cameras)), received_s=m.now_s - 0.3),
    "camera stopped": lambda m, rng: _seen(m, next(iter(m.sense.cameras)), counter=1, stamp_s=1.0),
    "camera frozen": lambda m, rng: _seen(m, next(iter(m.sense.cameras)), digest=1),
    "camera of the future": lambda m, rng: _seen(m, next(iter(m.sense.cameras)), received_s=m.now_s + 1.0),
    "camera missing": lambda m, rng: replace(m, sense=m.sense._replace(cameras={})),
    "clock stands": lambda m, rng: replace(m, now_s=1000.0),
    "clock goes back": lambda m, rng: replace(m, now_s=m.now_s - float(rng.uniform(0.1, 10))),
    "clock jumps ahead": lambda m, rng: replace(m, now_s=m.now_s + float(rng.uniform(0.1, 10))),
    "robot's own fault": lambda m, rng: replace(m, told="joint 3 is hot"),
}
GATE_FAULTS = CHUNK_FAULTS | SENSE_FAULTS | OTHER_FAULTS


def gate_fault(plan: Plan, kind: str, rng: np.random.Generator) -> Verdict:
    """One run of the brain on a robot that does as it is told, with one fault from a random tick on for a while.
    Proprioception is a few ticks old throughout, as old as is still used.

    `plan` commands deltas. Every command has to be finite and inside limits, the place too unless what is measured of
    it is wrong, and after a latch nothing may move once it stands.
    """
    period_s = 1.0 / plan.action.rate_hz
    gate = plan.gate()
    place = np.array([0.0] * len(plan.observation.proprio))
    for axis in gate.axes:
        if axis.measured is not None:
            place[axis.measured] = axis.low + (axis.high - axis.low) * rng.random()
    lag = int(rng.integers(max(1, int(plan.limits.age_s * plan.action.rate_hz))))  # ticks
    readings: list[Sense] = []
    begins = int(rng.integers(*BEGINS))
    ends = begins + int(rng.integers(*LASTS))
    low, high = np.array(plan.action.low), np.array(plan.action.high)
    brain: Brain | None = None
    journal: list[dict[str, Any]] = []
    verdict, stood = Verdict(), False
    for tick in range(TICKS):
        now_s = 1000.0 + tick * period_s
        sights = {camera: Sight(tick + 2, now_s, now_s, tick + 2) for camera in gate.cameras}
        readings.append(Sense(tuple(place.tolist()), now_s, {}))
        sense = readings[max(tick - lag, 0)]._replace(cameras=sights)
        brain = brain or Brain(plan, sense)
        chunk = (low + (high - low) * rng.random(gate.chunk)).astype(np.float32)
        moment = Moment(now_s, sense, brain.buffer.tick, chunk, now_s)
        if begins <= tick < ends:
            moment = GATE_FAULTS[kind](moment, rng)
        step = _told(brain, moment, tick)
        command = step.decision.command
        journal.append(
            {"kind": "command", "accepted": True, "time_s": tick * period_s, "action": list(command)}
            | {"finite": bool(np.isfinite(command).all())}
        )
        moving = any(command[axis.index] for axis in gate.axes)
        if brain.fault and stood and moving:
            verdict.violations.append(f"it moved at tick {tick} after a fault, without being re-armed")
        stood = bool(brain.fault) and (stood or not moving)
        for axis in gate.axes:
            if axis.measured is not None:
                place[axis.measured] += command[axis.index] * axis.scale
                outside = not axis.low - INSIDE <= place[axis.measured] <= axis.high + INSIDE
                if outside and kind not in SENSE_FAULTS:
                    verdict.violations.append(f"{axis.name} at {place[axis.measured]:.4f} left its box at tick {tick}")
    verdict.add(check_journal(journal, plan))
    return verdict


def _told(brain: Brain, moment: Moment, tick: int) -> Step:
    if tick % DECIDE_EVERY == 0 and not brain.unfit(moment.sense, moment.now_s):
        brain.take_chunk(moment.at, moment.chunk, moment.captured_s, moment.now_s)
    if moment.told:
        brain.latch(moment.told)
    return brain.tick(moment.sense, moment.now_s)


# The wire.

Mutation = Callable[[bytes, np.random.Generator], bytes | str]


def _flipped(frame: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(frame)
    for place in rng.integers(len(data), size=int(rng.integers(1, 9))):
        data[place] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _header_flipped(frame: bytes, rng: np.random.Generator) -> bytes:
    """Where structure is, not pixels."""
    return _flipped(frame[:200], rng) + frame[200:]


def _lied(frame: bytes, rng: np.random.Generator) -> bytes:
    """A length of up to 4 GB that is not there."""
    code = bytes([int(rng.choice([0xC6, 0xC9, 0xDB, 0xDD, 0xDF]))])
    return code + struct.pack(">I", int(rng.integers(2**20, 2**32))) + frame[:64]


def _another(frame: bytes, rng: np.random.Generator) -> bytes:
    """The message with one value of another kind."""
    message: dict[Any, Any] = msgpack.unpackb(frame, strict_map_key=False)
    others = [
        None,
        True,
        -1,
        2**60,
        float("nan"),
        "text",
        b"bytes",
        [1, 2],
        {b"__ndarray__": True},
        msgpack.Timestamp(1),
    ]
    message[list(message)[int(rng.integers(len(message)))]] = others[int(rng.integers(len(others)))]
    return msgpack.packb(message)


WIRE_FAULTS: dict[str, Mutation] = {
    "bits flipped": _flipped,
    "bits of the structure flipped": _header_flipped,
    "cut off": lambda frame, rng: frame[: int(rng.integers(len(frame)))],
    "twice over": lambda frame, rng: frame + frame,
    "lengths that are not there": _lied,
    "nested without end": lambda frame, rng: bytes([0x91]) * int(rng.integers(100, 100_000)),
    "a value of another kind": _another,
    "noise": lambda frame, rng: rng.bytes(int(rng.integers(1, 4096))),
    "text": lambda frame, rng: error_text("internal", "x" * int(rng.integers(1000))),
}


def wire_fault(spec: ObservationSpec, chunk: tuple[int, int], kind: str, rng: np.random.Generator) -> Verdict:
    """One spoilt request and one spoilt answer: a documented error, or exactly what the protocol allows."""
    images = {c.name: rng.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in spec.cameras}
    proprio, goal = (rng.normal(size=len(names)).astype(np.float32) for names in (spec.proprio, spec.goal))
    request = request_frame(Request(Observation(images, proprio, goal, 0.0), id=3))
    reply = reply_frame(rng.normal(size=chunk), 3, {"infer": 1.0})
    verdict = Verdict(commands=2)
    try:
        found = read_request(WIRE_FAULTS[kind](request, rng), spec)
        seen = found.observation
        shapes = [image.shape for image in seen.images.values()] + [seen.proprio.shape, seen.goal.shape]
        wanted = [image.shape for image in images.values()] + [proprio.shape, goal.shape]
        if shapes != wanted or not np.isfinite(np.concatenate([seen.proprio, seen.goal])).all():
            verdict.violations.append(f"a request was let in with shapes {shapes}, or not finite")
    except WireError:
        pass
    except Exception as error:
        verdict.violations.append(f"a request raised {type(error).__name__}: {error}")
    try:
        read_reply(WIRE_FAULTS[kind](reply, rng))  # what is in it is the gate's business
    except S2RobotError:
        pass
    except Exception as error:
        verdict.violations.append(f"an answer raised {type(error).__name__}: {error}")
    return verdict


def faults_alone(plan: Plan, count: int, seed: int) -> tuple[Counter[str], Verdict]:
    """`count` faults, every kind of both in turn: how many of each, and what was found."""
    spec, chunk = plan.observation, plan.gate().chunk
    kinds = [("gate", kind) for kind in GATE_FAULTS] + [("wire", kind) for kind in WIRE_FAULTS]
    done: Counter[str] = Counter()
    total = Verdict()
    for number in range(count):
        where, kind = kinds[number % len(kinds)]
        rng = np.random.default_rng((seed, number))
        found = gate_fault(plan, kind, rng) if where == "gate" else wire_fault(spec, chunk, kind, rng)
        total.commands += found.commands
        total.violations += [f"{where} {number} ({kind}): {what}" for what in found.violations]
        done[f"{where}: {kind}"] += 1
    return done, total
