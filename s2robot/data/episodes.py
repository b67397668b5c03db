"""Episode store: write demonstrations so that a kill loses nothing acknowledged, read only what is whole.

    STORE/spec.json                   DatasetSpec
    STORE/index.jsonl                 an episode exists when its line exists
    STORE/episodes/ID/                one immutable zarr v3 group per episode, with manifest.json
    STORE/.partial/  .damaged/        being written; set aside by repair

Dims: t time steps, h w image height and width (px), p proprioception, a action, g goal.

An episode is written to `.partial`, fsynced, renamed and then indexed, in this order; nothing is ever appended to or
resized. So a process that dies at any instruction leaves the episode whole or absent. Several processes may write to
one store at once. Power loss depends on the disk and is not claimed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import fsspec
import numpy as np
from jaxtyping import UInt8

from s2robot.data.group import (
    MANIFEST,
    check_episode,
    entry_of,
    episode_fingerprint,
    first_damage,
    manifest_of,
    open_group,
    pack,
    read_array,
    unpack,
)
from s2robot.data.index import (
    EPISODES,
    INDEX,
    EpisodeEntry,
    Index,
    added,
    append_record,
    load_index,
    parse_index,
    retired,
    store_lock,
)
from s2robot.data.recorder import EpisodeRecorder
from s2robot.errors import DamagedError, S2RobotError, unknown_name
from s2robot.storage import disk_error, fingerprint, fsync_folder, fsync_tree, sha256_bytes, write_json
from s2robot.types import DatasetSpec, EndReason, Episode, require_equal

SPEC = "spec.json"


class EpisodeWriter:
    """Adds episodes to the store at `path`, which is created when it does not exist.

    Raises MismatchError when the store exists with another spec, S2RobotError when the folder holds something else.
    """

    def __init__(self, path: str | Path, spec: DatasetSpec) -> None:
        self.path = Path(path)
        self.spec = spec
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise S2RobotError(f"{self.path} is a file; give a folder for the episode store") from error
        with store_lock(self.path):
            self._open_spec()
            for folder in (EPISODES, ".partial"):
                (self.path / folder).mkdir(exist_ok=True)
            self._sweep()

    def write(self, episode: Episode) -> str:
        """Store one episode; when this returns its id, the episode survives a kill.

        The id is made of seed and content: writing the same episode again gives the same id and changes nothing,
        except that it mends the stored one if that is damaged.
        Raises S2RobotError when the episode does not fit the spec or the disk is full; the store is as before then.
        """
        return self._store(episode, replaces=None)

    def replace(self, old: str, episode: Episode) -> str:
        """Store `episode` in the place of `old`, in one step: readers see the one or the other.

        Raises S2RobotError when there is no episode `old`. Its files stay for readers that have the store open.
        """
        if old not in (known := load_index(self.path).live):
            raise unknown_name("episode", old, known)
        return self._store(episode, replaces=old)

    @contextmanager
    def episode(
        self, *, seed: int, goal: Sequence[float] = (), success: bool = True, end: EndReason | None = None
    ) -> Iterator[EpisodeRecorder]:
        """Record an episode step by step; it is stored when the block ends, and not at all when the block raises.

        `success` and `end` can also be set on the recorder, since a robot learns them last.
        """
        recorder = EpisodeRecorder(seed=seed, goal=goal, success=success, end=end)
        yield recorder
        recorder.id = self.write(recorder.to_episode())

    def _open_spec(self) -> None:
        path, ours = self.path / SPEC, self.spec.to_json()
        if path.exists():
            theirs = spec_from_bytes(path.read_bytes(), str(self.path))
            require_equal(f"dataset spec of {self.path}", theirs.to_json(), ours, "write to another store")
        elif any(not entry.name.startswith(".") for entry in self.path.iterdir()):
            raise S2RobotError(f"{self.path} is not empty and holds no {SPEC}; give a new folder or an episode store")
        else:
            write_json(path, {**ours, "sha256": fingerprint(ours)})

    def _sweep(self) -> None:
        """Remove what dead writers left in `.partial`. Caller holds the store's lock."""
        for folder in (self.path / ".partial").iterdir():
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            except BlockingIOError:
                pass  # its writer lives: the kernel drops the lock only when that process ends
            finally:
                os.close(handle)

    @contextmanager
    def _partial(self) -> Iterator[Path]:
        """A hidden folder that is locked while this process lives and removed unless it was renamed."""
        folder = self.path / ".partial" / uuid.uuid4().hex
        with store_lock(self.path):  # or a sweep could come between these two steps
            folder.mkdir()
            handle = os.open(folder, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)

    def _store(self, episode: Episode, replaces: str | None) -> str:
        check_episode(episode, self.spec)
        content = episode_fingerprint(episode)
        files = pack(episode)
        manifest = manifest_of(files, content, replaces)
        entry = entry_of(episode, content, manifest)
        try:
            with self._partial() as partial:
                write_files(partial, {**files, MANIFEST: manifest})
                fsync_tree(partial)
                with store_lock(self.path):
                    self._publish(partial, entry, replaces)
        except OSError as error:
            raise disk_error(error, self.path) from error
        return entry.id

    def _publish(self, partial: Path, entry: EpisodeEntry, replaces: str | None) -> None:
        """Rename, then index. Caller holds the store's lock."""
        final = self.path / EPISODES / entry.id
        if final.exists():
            there = load_index(self.path).live.get(entry.id)
            if there and first_damage(final, there.manifest_sha256) is None:
                if replaces not in (None, entry.id):
                    append_record(self.path, retired(replaces, f"replaced by {entry.id}"))
                return
            # The same content, but damaged, retired, or renamed by a writer that died before it wrote the line.
            shutil.rmtree(final)
        os.rename(partial, final)
        fsync_folder(final.parent)
        append_record(self.path, added(entry, None if replaces == entry.id else replaces))


class EpisodeStore:
    """Reads a store from a local folder or any fsspec URL; what it returns was checked against its sha256.

    The store is seen as it was when it was opened. Raises S2RobotError when there is none or it is empty (unless
    `allow_empty`), DamagedError when spec or index are damaged.
    """

    def __init__(self, path: str | Path, allow_empty: bool = False) -> None:
        self.path = str(path)
        self._fs, self._root = fsspec.core.url_to_fs(self.path)
        self.spec = self._read_spec()
        self.index = self._read_index()
        if self.index.damaged_lines:
            lines = ", ".join(map(str, self.index.damaged_lines))
            raise DamagedError(f"{INDEX} of {self.path} is damaged at line {lines}; {self._remedy()}")
        if not self.index.live and not allow_empty:
            raise S2RobotError(f"the episode store {self.path} holds no episodes; fill it with `s2robot collect`")

    def __len__(self) -> int:
        return len(self.index.live)

    @property
    def episodes(self) -> list[str]:
        """Ids, sorted by seed, then id: the order does not depend on who wrote when."""
        return list(self.index.live)

    @property
    def seeds(self) -> list[int]:
        """The seed of every episode, in the order of `episodes`."""
        return [entry.seed for entry in self.index.live.values()]

    def entry(self, episode: str) -> EpisodeEntry:
        """Seed, length, success, fingerprint of an episode, from the index alone."""
        if episode not in self.index.live:
            raise unknown_name("episode", episode, self.index.live)
        return self.index.live[episode]

    def fingerprint(self, episode: str) -> str:
        """sha256 of the episode's content; see `episode_fingerprint`."""
        return self.entry(episode).fingerprint

    def dataset_fingerprint(self, episodes: Iterable[str] | None = None) -> str:
        """sha256 of the spec and of the fingerprints of the given episodes (all by default), in any order."""
        chosen = self.episodes if episodes is None else episodes
        return fingerprint({"spec": self.spec.to_json(), "episodes": sorted(self.fingerprint(e) for e in chosen)})

    def size_bytes(self) -> int:
        """Bytes of all files of the store, superseded episodes included."""
        return int(self._fs.du(self._root))

    def read(self, episode: str, images: bool | Collection[str] = True) -> Episode:
        """One episode; `images` says which cameras' frames come with it.

        Raises DamagedError naming episode and file when a file that is read is missing or altered.
        """
        known = [camera.name for camera in self.spec.observation.cameras]
        cameras = known if images is True else [self.spec.observation.camera(c).name for c in images or ()]
        skipped = tuple(f"images/{camera}/" for camera in known if camera not in cameras)
        return unpack(self._verified(episode, lambda path: not path.startswith(skipped)), cameras)

    def frames(self, episode: str, camera: str, start: int, stop: int) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames start:stop of one camera, reading only the chunks that hold them."""
        folder = f"images/{self.spec.observation.camera(camera).name}"
        steps = self.entry(episode).steps
        if not 0 <= start < stop <= steps:
            raise S2RobotError(f"frames {start}:{stop} are not inside episode {episode}, which has {steps} steps")
        files = self._verified(episode, {"zarr.json", "images/zarr.json", f"{folder}/zarr.json"}.__contains__)
        size = json.loads(files[f"{folder}/zarr.json"])["chunk_grid"]["configuration"]["chunk_shape"][0]
        chunks = {f"{folder}/c/{i}/0/0/0" for i in range(start // size, (stop - 1) // size + 1)}
        files |= self._verified(episode, chunks.__contains__)
        return read_array(open_group(files), folder, start, stop)

    def _verified(self, episode: str, wanted: Callable[[str], bool]) -> dict[str, bytes]:
        """The files of an episode whose path is wanted, each checked against the manifest, that against the index."""
        manifest = self._checked(episode, MANIFEST, self.entry(episode).manifest_sha256)
        digests = {path: digest for path, digest in json.loads(manifest)["files"].items() if wanted(path)}
        with ThreadPoolExecutor(4) as pool:  # latency of a remote store; hashing runs outside the GIL
            contents = pool.map(lambda item: self._checked(episode, *item), digests.items())
            return dict(zip(digests, contents, strict=True))

    def _checked(self, episode: str, path: str, digest: str) -> bytes:
        try:
            data = self._fs.cat_file(f"{self._root}/{EPISODES}/{episode}/{path}")
        except FileNotFoundError as error:
            raise DamagedError(f"episode {episode} of {self.path}: {path} is missing; {self._remedy()}") from error
        if sha256_bytes(data) != digest:
            raise DamagedError(f"episode {episode} of {self.path}: {path} fails its checksum; {self._remedy()}")
        return data

    def _read_spec(self) -> DatasetSpec:
        try:
            return spec_from_bytes(self._fs.cat_file(f"{self._root}/{SPEC}"), self.path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise S2RobotError(f"no episode store at {self.path}; make one with `s2robot collect`") from error

    def _read_index(self) -> Index:
        try:
            return parse_index(self._fs.cat_file(f"{self._root}/{INDEX}"))
        except FileNotFoundError:
            return Index()

    def _remedy(self) -> str:
        return f"see `s2robot data verify store={self.path}`, mend with `s2robot data repair store={self.path}`"


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files below a folder, making the folders between."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def spec_from_bytes(data: bytes, store: str) -> DatasetSpec:
    """The content of `spec.json`, checked against the sha256 in it. Raises DamagedError."""
    try:
        spec = json.loads(data)
        intact = spec.pop("sha256") == fingerprint(spec)
    except (ValueError, KeyError, AttributeError):
        intact = False
    if not intact:
        raise DamagedError(f"{SPEC} of {store} fails its checksum; restore it from a copy or collect into a new store")
    return DatasetSpec.from_json(spec)
