"""A process that writes episodes until it is killed: the real writer, or one of three that break its promises.

crash_child.py loop  STORE WRITER SEED     write from SEED on, printing each id when write() has returned
crash_child.py steps FOLDER WRITER STRIDE  for n = 1, 1 + STRIDE, ...: write two episodes to FOLDER/n and die at the
                                           n-th file operation, until a run survives; its ids are in FOLDER/n.txt
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tiny_episodes import SPEC, make_episode

from s2robot.data.episodes import EpisodeWriter, write_files
from s2robot.data.group import MANIFEST, entry_of, episode_fingerprint, manifest_of, pack
from s2robot.data.index import EPISODES, EpisodeEntry, added, append_record, store_lock
from s2robot.storage import fsync_file, fsync_tree
from s2robot.types import Episode


def prepared(episode: Episode) -> tuple[dict[str, bytes], EpisodeEntry]:
    """Files and entry of an episode as the real writer makes them."""
    content, files = episode_fingerprint(episode), pack(episode)
    manifest = manifest_of(files, content, None)
    return {**files, MANIFEST: manifest}, entry_of(episode, content, manifest)


class IndexFirst(EpisodeWriter):
    """Writes the index line before the files."""

    def write(self, episode: Episode) -> str:
        files, entry = prepared(episode)
        with store_lock(self.path):
            append_record(self.path, added(entry))
        with self._partial() as partial:
            write_files(partial, files)
            fsync_tree(partial)
            os.rename(partial, self.path / EPISODES / entry.id)
        return entry.id


class NoRename(EpisodeWriter):
    """Writes the files, each of them synced, under their final name."""

    def write(self, episode: Episode) -> str:
        files, entry = prepared(episode)
        for path, data in files.items():
            write_files(self.path / EPISODES / entry.id, {path: data})
            fsync_file(self.path / EPISODES / entry.id / path)
        with store_lock(self.path):
            append_record(self.path, added(entry))
        return entry.id


class Append(EpisodeWriter):
    """Stores the first half of an episode and then appends the second half to the same group."""

    def write(self, episode: Episode) -> str:
        name = prepared(episode)[1].id
        for steps in (len(episode) // 2, len(episode)):
            files, entry = prepared(first_steps(episode, steps))
            write_files(self.path / EPISODES / name, files)
            with store_lock(self.path):
                append_record(self.path, added(replace(entry, id=name)))
        return name


def first_steps(episode: Episode, steps: int) -> Episode:
    """The episode cut after `steps` steps."""
    return replace(
        episode,
        images={name: frames[:steps] for name, frames in episode.images.items()},
        proprio=episode.proprio[:steps],
        action=episode.action[:steps],
        time_s=episode.time_s[:steps],
        sim_state=episode.sim_state[:steps],
        labels={name: label[:steps] for name, label in episode.labels.items()},
    )


WRITERS = {writer.__name__: writer for writer in (EpisodeWriter, IndexFirst, NoRename, Append)}


def loop(store: str, writer: str, first_seed: str) -> None:
    print("ready", flush=True)
    episodes = WRITERS[writer](store, SPEC)
    for seed in count(int(first_seed)):
        print(episodes.write(make_episode(seed)), flush=True)


def steps(folder: str, writer: str, stride: str) -> None:
    for n in count(1, int(stride)):
        child = os.fork()  # a fresh process without the price of importing zarr
        if child == 0:
            acknowledged = os.open(f"{folder}/{n}.txt", os.O_WRONLY | os.O_CREAT)
            die_at_operation(n)
            episodes = WRITERS[writer](f"{folder}/{n}", SPEC)
            for seed in (1, 2):
                os.write(acknowledged, f"{episodes.write(make_episode(seed))}\n".encode())
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            return


def die_at_operation(n: int) -> None:
    """SIGKILL this process just before its n-th operation on a file of a store."""
    left = n

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in ("os.rename", "os.mkdir", "os.truncate", "os.remove", "os.rmdir") or (
            event == "open" and int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        ):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    {"loop": loop, "steps": steps}[sys.argv[1]](*sys.argv[2:])
