"""Is the log the whole story? Every decision in it, taken again from what it says led there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from s2robot.deploy.brain import Brain
from s2robot.deploy.gate import Sense
from s2robot.deploy.log import ChunkEntry, EventEntry, LogReader, TickEntry

LATCH, REARM, STOP = "latch", "rearm", "stop"  # kinds of events that change what is decided


@dataclass(frozen=True)
class Replay:
    """How many entries were decided again, and the ticks that came out otherwise: (number of the tick entry, what)."""

    ticks: int
    chunks: int
    differences: tuple[tuple[int, str], ...]

    @property
    def exact(self) -> bool:
        """The log explains every decision."""
        return not self.differences


def replay(path: Path) -> Replay:
    """Raises DamagedError for a file that is no log."""
    log = LogReader(path)
    brain: Brain | None = None
    ticks = chunks = 0
    wrong: list[tuple[int, str]] = []
    for entry, sense in _told(log):
        brain = brain or Brain(log.plan, sense)
        if isinstance(entry, TickEntry):
            step = brain.tick(entry.sense, entry.now_s)
            found = (step.tick, step.proposal, step.decision, brain.fault or "")
            logged = (entry.step.tick, entry.step.proposal, entry.step.decision, entry.fault)
            wrong += [(ticks, f"{a!r} instead of {b!r}") for a, b in zip(found, logged, strict=True) if a != b]
            ticks += 1
        elif isinstance(entry, ChunkEntry):
            arrival = entry.arrival
            verdict = brain.take_chunk(arrival.at, arrival.chunk, arrival.captured_s, entry.now_s)
            if verdict != entry.verdict:
                wrong.append((ticks, f"chunk {entry.arrival.id}: {verdict!r} instead of {entry.verdict!r}"))
            chunks += 1
        else:
            _happen(brain, entry, sense)
    return Replay(ticks, chunks, tuple(wrong))


def _told(log: LogReader) -> Iterator[tuple[TickEntry | ChunkEntry | EventEntry, Sense]]:
    """What a brain is told, each with the reading of the tick that it came before: a re-arm begins from that."""
    waiting: list[TickEntry | ChunkEntry | EventEntry] = []
    sense: Sense | None = None
    for entry in log.entries():
        if isinstance(entry, TickEntry | ChunkEntry | EventEntry):
            waiting.append(entry)
        if isinstance(entry, TickEntry):
            sense = entry.sense
            yield from ((one, sense) for one in waiting)
            waiting = []
    if sense is not None:  # killed before its next tick
        yield from ((one, sense) for one in waiting)


def _happen(brain: Brain, event: EventEntry, sense: Sense) -> None:
    if event.kind == LATCH:
        brain.latch(event.text)
    elif event.kind == REARM:
        brain.rearm(sense)
    elif event.kind == STOP:
        brain.stop()
