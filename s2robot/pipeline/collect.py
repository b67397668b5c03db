"""`s2robot collect`: scripted demonstrations of a task into an episode store, by a pool of workers.

Which seeds end up in the store depends on the task and the first seed alone: seeds are tried in order and those
where the expert fails are replaced by the next ones, whatever the number of workers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2robot.data.episodes import EpisodeStore, EpisodeWriter
from s2robot.errors import MismatchError, S2RobotError
from s2robot.execution import run_tasks
from s2robot.gl import select_gl_backend
from s2robot.pipeline.seeds import DEMONSTRATION_SEEDS
from s2robot.progress import progress, say
from s2robot.storage import append_line, cut_torn_line, read_json, read_json_lines, write_json
from s2robot.types import Episode, require_equal

if TYPE_CHECKING:
    from s2robot.envs.expert import ExpertConfig
    from s2robot.envs.task import TabletopTask

EXPERT_STREAM = 7  # keeps the expert's noise apart from the episode's own draws
FAILED = ".failed.jsonl"  # in the store: seeds on which the expert failed
VERSION = 2  # raised whenever task or expert would give another demonstration for the same seed
VERSION_FILE = ".version.json"  # in the store: the version that began it


@dataclass(frozen=True)
class CollectItem:
    """One episode to demonstrate."""

    task_json: str
    store: str
    cameras: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Collected:
    """`episode` is the id under which the demonstration is stored, None where the expert failed."""

    seed: int
    episode: str | None
    steps: int


def collect(
    task: Mapping[str, Any], store: Path, episodes: int, cameras: tuple[str, ...], first_seed: int, workers: int
) -> Iterator[Collected]:
    """Fill `store` up to `episodes` demonstrations, yielding each as it is acknowledged (safely stored).

    Goes on where an earlier call stopped. Raises S2RobotError when the seeds set apart for demonstrations run out,
    MismatchError when `store` holds demonstrations of another task, of this one with other parameters, or of an
    earlier expert and lacks some.
    """
    have, hopeless = stored_seeds(store), failed_seeds(store)
    if have:
        spec = EpisodeStore(store).spec
        theirs = {"task": dict(spec.task_config), "cameras": [camera.name for camera in spec.observation.cameras]}
        ours = {"task": json.loads(json.dumps(dict(task))), "cameras": list(cameras)}
        require_equal(f"what {store} demonstrates", theirs, ours, "give another store or delete that one")
    if len(have) < episodes:
        _require_version(store, begun=bool(have))
        select_gl_backend()  # once, here: the workers inherit the choice
    done, failed, next_seed = 0, 0, first_seed
    task_json = json.dumps(dict(task), sort_keys=True)
    while done < episodes:  # a round tries as many seeds as are still missing
        seeds = range(next_seed, next_seed + episodes - done)
        if seeds[-1] not in DEMONSTRATION_SEEDS:
            raise S2RobotError(
                f"seeds {seeds[0]}:{seeds[-1] + 1} leave those set apart for demonstrations, "
                f"{DEMONSTRATION_SEEDS.start}:{DEMONSTRATION_SEEDS.stop}; ask for fewer episodes or a lower first_seed"
            )
        next_seed = seeds[-1] + 1
        done += sum(seed in have for seed in seeds)
        untried = [seed for seed in seeds if seed not in have and seed not in hopeless]
        items = [CollectItem(task_json, str(store), cameras, seed) for seed in untried]
        for result in progress(
            run_tasks(collect_one, items, workers), len(seeds), "collect", "demo", len(seeds) - len(items)
        ):
            if result.episode is None:
                append_line(store / FAILED, json.dumps({"seed": result.seed, "steps": result.steps}))
            done += result.episode is not None
            failed += result.episode is None
            yield result
    if failed:
        say(f"the expert failed on {failed} of {done + failed} seeds; they were replaced by the next ones")


def _require_version(store: Path, begun: bool) -> None:
    path = store / VERSION_FILE
    theirs = read_json(path)["version"] if path.exists() else "an earlier one"
    if begun and theirs != VERSION:
        raise MismatchError(
            f"{store} was begun by other tasks and another expert (version: {theirs}) than those of today ({VERSION}); "
            "train on what it holds, or give another store"
        )
    if not begun:
        write_json(path, {"version": VERSION})


def stored_seeds(store: Path) -> set[int]:
    """Seeds that the store holds already; none when it does not exist yet."""
    if not (store / "spec.json").exists():
        return set()
    return set(EpisodeStore(store, allow_empty=True).seeds)


def failed_seeds(store: Path) -> set[int]:
    """Seeds on which the expert failed in earlier calls; they are not tried again."""
    path = store / FAILED
    if not path.exists():
        return set()
    cut_torn_line(path)  # a kill may tear the last line; that seed is tried again
    return {line["seed"] for line in read_json_lines(path)}


def collect_one(item: CollectItem) -> Collected:
    """Demonstrate one episode and store it if it succeeds. Runs inside a worker."""
    env, writer = _workshop(item.task_json, item.store, item.cameras)
    episode = demonstrate(env, item.seed, item.cameras)
    return Collected(item.seed, writer.write(episode) if episode.success else None, len(episode))


def demonstrate(env: TabletopTask, seed: int, cameras: tuple[str, ...], config: ExpertConfig | None = None) -> Episode:
    """One episode of the scripted expert; the stored action is its clean one, the executed one carries noise."""
    from s2robot.envs.expert import ExpertConfig, GraspExpert

    env.reset(seed=seed)
    expert = GraspExpert(env, config or ExpertConfig(), np.random.default_rng((EXPERT_STREAM, seed)))
    observations, actions, states, labels = [], [], [], []
    while env.end is None:
        observations.append(env.observe(cameras))
        states.append(env.sim_state())
        labels.append(env.labels())
        clean, noisy = expert.act()
        actions.append(clean.astype(np.float32))
        env.step(noisy)
    return Episode(
        images={c: np.stack([o.images[c] for o in observations]) for c in cameras},
        proprio=np.stack([o.proprio for o in observations]),
        action=np.stack(actions),
        time_s=np.array([o.time_s for o in observations]),
        goal=env.goal.copy(),
        success=env.end == "success",
        seed=seed,
        end=env.end,
        sim_state=np.stack(states),
        labels={k: np.stack([step[k] for step in labels]) for k in labels[0]},
    )


@lru_cache(maxsize=1)  # one world per worker: building it takes seconds
def _workshop(task_json: str, store: str, cameras: tuple[str, ...]) -> tuple[TabletopTask, EpisodeWriter]:
    from s2robot.envs import make_task

    task = json.loads(task_json)
    env = make_task(task)
    return env, EpisodeWriter(store, replace(env.dataset_spec(cameras), task_config=task))
