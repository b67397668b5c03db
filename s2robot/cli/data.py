"""`s2robot data`: check, mend and look at an episode store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HELP = "checks, mends and describes an episode store"
POSITIONAL = "store"
VERBS = {
    "verify": "checks every byte of every episode and lists what is damaged",
    "repair": "takes damaged episodes out of the store (into .damaged/) and puts lost whole ones back",
    "report": "writes counts, ranges, a contact sheet and a sample video; of a control run's .mcap, plots and a video",
    "replay": "takes every decision in a control run's .mcap again and says whether the log explains it",
}


def run(config: Any, verb: str) -> int | None:
    """Raises S2RobotError when there is no store, DamagedError when `verify` finds damage."""
    return {"verify": _verify, "repair": _repair, "report": _report, "replay": _replay}[verb](config)


def _verify(config: Any) -> None:
    from s2robot.data.repair import verify
    from s2robot.errors import DamagedError

    found = verify(config.store)
    for episode, fault in found.damaged.items():
        print(f"{episode}: {fault}")
    for line in found.damaged_lines:
        print(f"index.jsonl line {line}: fails its checksum")
    for folder in found.unindexed:
        print(f"{folder}: not in the index (left by a process that was killed; harmless)")
    if not found.intact:
        raise DamagedError(
            f"{len(found.damaged)} of {found.episodes} episodes and {len(found.damaged_lines)} index lines of "
            f"{config.store} are damaged; mend with `s2robot data repair store={config.store}`"
        )
    print(f"{found.episodes} episodes in {config.store}: every byte as written")


def _repair(config: Any) -> None:
    from s2robot.data.repair import repair

    done = repair(config.store)
    for episode in done.set_aside:
        print(f"{episode}: damaged, moved to {config.store}/.damaged")
    for episode in done.recovered:
        print(f"{episode}: whole, back in the index")
    print(
        f"{len(done.set_aside)} episodes and {done.lines_set_aside} index lines set aside, "
        f"{len(done.recovered)} episodes recovered in {config.store}; collect again to fill what is missing"
    )


def _replay(config: Any) -> None:
    from s2robot.deploy.replay import replay
    from s2robot.errors import MismatchError

    found = replay(Path(config.store))
    for tick, what in found.differences[:20]:
        print(f"tick entry {tick}: {what}")
    if not found.exact:
        raise MismatchError(
            f"{len(found.differences)} decisions in {config.store} come out otherwise: the log was changed, or another "
            "version wrote it"
        )
    print(f"{found.ticks} ticks and {found.chunks} chunks of {config.store}: every decision as logged")


def _report(config: Any) -> None:
    from s2robot.data.episodes import EpisodeStore
    from s2robot.data.report import report

    out = Path(config.out)
    if str(config.store).endswith(".mcap"):
        from s2robot.deploy.report import report_run

        print(report_run(Path(config.store), out))
        print(f"report: {out / 'report.md'}")
        return
    print(report(EpisodeStore(config.store), out).markdown())
    print(f"report: {out / 'report.md'}")
