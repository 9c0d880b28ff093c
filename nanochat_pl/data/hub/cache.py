"""Whole shards on the disk: fetched ahead in the background, checked before use, the oldest let go."""

import contextlib
import errno
import hashlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from nanochat_pl.data.hub import shards
from nanochat_pl.data.hub.connection import Connection, asked_for
from nanochat_pl.data.hub.files import HubFile, HubIndex
from nanochat_pl.data.hub.manifest import KeptShard, Manifest
from nanochat_pl.data.hub.space import DiskFull, NoRoom, ShardSpace
from nanochat_pl.data.parquet import BadShard, check_rows, html_note, read_footer

log = logging.getLogger("nanochat_pl.data")

T = TypeVar("T")


class ShardCache(shards.Shards):
    """The files of an index as files on the disk; safe to use from several threads and processes.

    Args:
        index: of a data set on the hub.
        manifest: of the data set's folder in the cache.
        bound_bytes: what all kept shards of the data set may take together.
        text_column, id_column: what a shard must have.
        attempts: how often a shard that turns out bad is fetched.
        connection: what a lost connection is waited for with.
    """

    def __init__(
        self,
        index: HubIndex,
        manifest: Manifest,
        *,
        bound_bytes: int,
        text_column: str = "text",
        id_column: str | None = None,
        attempts: int = 2,
        connection: Connection,
    ):
        self._index, self._manifest, self._connection = index, manifest, connection
        self._folder = index.folder
        self._columns, self._attempts = (text_column, id_column), attempts
        self._space = ShardSpace(manifest, bound_bytes)
        self._lock = threading.Lock()
        self._checked: set[str] = set()
        self._bad: dict[str, BadShard] = {}
        self._used: list[HubFile] = []
        self._reading: list[HubFile] = []
        self._wanted: list[HubFile] = []
        self._fitting: list[HubFile] = []
        self._workers: list[threading.Thread] = []
        # At the end of the process as well: a thread that dies inside of pyarrow takes the process down with it.
        self._close = weakref.finalize(self, _close, connection, self._space, self._workers)

    def read(self, file: HubFile, action: Callable[[Any], T]) -> T:
        """What `action` returns for the file's path; raises what `path` and `action` raise."""
        with self._lock:
            self._reading.append(file)
        try:
            while True:
                with contextlib.suppress(FileNotFoundError):  # another process has just let it go
                    path = self.path(file)
                    try:
                        return action(path)
                    except BadShard:
                        if self._is_as_checked(file):
                            raise
        finally:
            with self._lock:
                self._reading.remove(file)

    def path(self, file: HubFile) -> Path:
        """Where the checked file is; waits until it is there.

        Raises:
            BadShard: what the hub gives is not what it should be, again and again.
            UserError, MachineError: no access to it; the hub stayed out of reach; the disk is full.
        """
        with self._lock:
            is_new = file not in self._used
            self._used = [*(other for other in self._used if other != file), file]
            if is_new:
                self._publish()
        path = self._path(file)
        if file.name in self._checked and path.exists():
            _touch(path)
            return path
        return self._fetch(file, needed=True)

    def kept(self, file: HubFile) -> Path | None:
        """Where the file is, if it is there already."""
        if not self._path(file).exists():
            return None
        with self._connection.alone(self._lock_of(file)):
            return self._kept(file)

    def coming(self, files: list[HubFile]) -> None:
        """The shard that is read now and those that follow: as many as fit are fetched in the background.

        Beside them stay the shards that are being read, and the last one that was: some streams are not done with it.
        """
        with self._lock:
            if files == self._wanted:
                return
            self._wanted = list(files)
            self._used = [file for file in self._used if file in self._reading or file == self._used[-1]]
            self._publish()
            if not self._workers and len(self._fitting) > 1:
                self._workers.append(threading.Thread(target=self._work, name="fetch-shards", daemon=True))
                self._workers[0].start()

    def alone(self, file: HubFile) -> contextlib.AbstractContextManager[None]:
        return self._connection.alone(shards.opening_lock(self._path(file)))

    def close(self) -> None:
        """Whoever waits for a file gives up; what is being fetched is gone on with next time."""
        self._close()

    def _publish(self) -> None:
        """Say which shards must stay: those in use, and of those to come as many as fit beside them."""
        fitting, taken = [], sum(file.size for file in self._used)
        for file in self._wanted:
            taken += file.size if file not in self._used else 0
            if taken > self._space.bound_bytes:
                break
            fitting.append(file)
        self._fitting = fitting
        self._space.use({self._name(file) for file in (*self._used, *fitting)})

    def _work(self) -> None:
        """Fetch what is coming, until nothing is left that can be: the first one is fetched by its readers."""
        fitting: list[HubFile] = []
        while True:
            with self._lock:
                if fitting is not self._fitting:
                    fitting, left = self._fitting, self._fitting[1:]
                if not left:
                    self._workers.clear()
                    return
            # What can't be had is told by the reader that needs it; what another process fetches is fetched.
            with contextlib.suppress(Exception):
                self._fetch(left.pop(0), needed=False)

    def _fetch(self, file: HubFile, needed: bool) -> Path:
        with self._connection.alone(self._lock_of(file)) if needed else FileLock(self._lock_of(file), timeout=0):
            kept = self._kept(file)  # perhaps by a process that had better luck
            if kept is not None:
                return kept
            if file.name in self._bad:
                raise self._bad[file.name]
            for attempt in range(1, self._attempts + 1):
                try:
                    return self._download(file, needed)
                except BadShard as error:
                    if attempt == self._attempts:
                        self._bad[file.name] = error
                        raise
                    log.warning("%s of %s: %s. Fetching it once more.", file.name, self._index.repo, error)
                    self._connection.pause(shards.REFETCH_SECONDS)
        raise AssertionError("at least one attempt")

    def _kept(self, file: HubFile) -> Path | None:
        """The file's path, if it is kept and in order."""
        path, name = self._path(file), self._name(file)
        try:
            entry, stat = self._manifest.read().kept.get(name), path.stat()
            if entry is None or (entry.size, entry.mtime_ns) != (stat.st_size, stat.st_mtime_ns):
                self._record(file, self._check(path, file))
            _touch(path)
        except FileNotFoundError:  # or another process has just let it go
            return None
        except BadShard as error:
            log.warning("%s is damaged (%s): it is fetched again.", path, error)
            path.unlink(missing_ok=True)
            return None
        self._checked.add(file.name)
        return path

    def _is_as_checked(self, file: HubFile) -> bool:
        """Whether the file has the hash that was recorded; where it has not, it is removed."""
        path = self._path(file)
        with self._connection.alone(self._lock_of(file)):
            entry = self._manifest.read().kept.get(self._name(file))
            with contextlib.suppress(FileNotFoundError):
                if entry is not None and _sha256(path) == entry.sha256:
                    return True
            log.warning("%s was damaged after it had been checked: it is fetched again.", path)
            path.unlink(missing_ok=True)
            return False

    def _download(self, file: HubFile, needed: bool) -> Path:
        path, name = self._path(file), self._name(file)
        part = path.with_name(f"{path.name}.part")
        self._checked.discard(file.name)
        self._space.reserve(name, file.size, needed)
        try:
            self._transfer(file, part, needed)
            sha256 = self._check(part, file)
            os.replace(part, path)
            self._record(file, sha256)
        except (BadShard, NoRoom, DiskFull):
            part.unlink(missing_ok=True)
            raise
        finally:
            self._space.release(name)
        self._checked.add(file.name)
        return path

    def _transfer(self, file: HubFile, part: Path, needed: bool) -> None:
        """Fetch what is missing of the file, waiting for the connection and making room as often as it takes."""
        while True:
            try:
                return self._connection.run(
                    lambda: self._get(file, part), f"{self._index.repo}/{file.name}", lambda: size_of(part)
                )
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self._space.shrink()
                self._space.reserve(self._name(file), file.size, needed)

    def _get(self, file: HubFile, part: Path) -> None:
        """Fetch what is missing, once; what came stays when the connection is lost."""
        there = size_of(part)
        if there == file.size:
            return
        if there > file.size:
            part.unlink()
            there = 0
        with (
            asked_for(self._index, file, there) as answer,
            part.open("ab" if answer.status_code == 206 else "wb") as out,
        ):
            for piece in answer.iter_bytes():
                self._connection.check_open()
                out.write(piece)
                if out.tell() > file.size:
                    break
            out.flush()
            os.fsync(out.fileno())

    def _check(self, path: Path, file: HubFile) -> str:
        """The sha256 of a file that is what it should be. Raises `BadShard` for any other."""
        size = path.stat().st_size
        if size != file.size:
            raise BadShard(f"{size} bytes instead of {file.size}{_html_note(path)}")
        sha256 = _sha256(path)
        if file.sha256 is None:
            check_rows(path, *self._columns)
        elif sha256 != file.sha256:
            raise BadShard(f"its sha256 is {sha256[:12]}… instead of {file.sha256[:12]}…{_html_note(path)}")
        read_footer(path, *self._columns)
        return sha256

    def _record(self, file: HubFile, sha256: str) -> None:
        path = self._path(file)
        with self._manifest.locked() as contents:
            contents.kept[self._name(file)] = KeptShard(file.size, sha256, path.stat().st_mtime_ns)

    def _path(self, file: HubFile) -> Path:
        return self._folder / file.name

    def _lock_of(self, file: HubFile) -> Path:
        """Of whoever fetches or checks the file."""
        path = self._path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f".{path.name}.lock")

    def _name(self, file: HubFile) -> str:
        return self._path(file).relative_to(self._manifest.folder).as_posix()


def _close(connection: Connection, space: ShardSpace, workers: list[threading.Thread]) -> None:
    connection.close()
    for worker in list(workers):
        worker.join(timeout=5)
    space.close()


def size_of(path: Path) -> int:
    """In bytes; 0 where there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _touch(path: Path) -> None:
    """Used just now: the access time, by which the oldest are let go. The time of the last change stays."""
    with contextlib.suppress(PermissionError):  # another user's file
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _html_note(path: Path) -> str:
    with path.open("rb") as file:
        return html_note(file.read(64))
