"""Where the files of a data set are read from: a folder, or the hub by range requests, of which nothing is kept."""

import contextlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nanochat_pl.data.hub.connection import Connection, asked_for
from nanochat_pl.data.hub.files import HubFile, HubIndex
from nanochat_pl.data.parquet import BadShard, html_note

T = TypeVar("T")

REFETCH_SECONDS = 10.0
"""What is damaged is asked for once more after so long: a mirror's error page may be gone then."""


class Shards(ABC):
    """Files that are read from several threads and processes."""

    @abstractmethod
    def read(self, file: HubFile, action: Callable[[Any], T]) -> T:
        """What `action` returns for a path or an open file. Raises `BadShard` where the file is no use."""

    def coming(self, files: list[HubFile]) -> None:  # noqa: B027  (a hint)
        """The file that is read now and those that will be."""

    def alone(self, file: HubFile) -> contextlib.AbstractContextManager[None]:
        """Inside, no other process finds out whether the file is any use."""
        return contextlib.nullcontext()

    def close(self) -> None:  # noqa: B027  (nobody waits for a local file)
        """Whoever waits gives up."""


class LocalShards(Shards):
    """The files of an index below a local folder."""

    def __init__(self, folder: Path):
        self._folder = folder

    def read(self, file: HubFile, action: Callable[[Any], T]) -> T:
        try:
            return action(self._folder / file.name)
        except FileNotFoundError as error:
            raise BadShard("the file is gone") from error


class RemoteShards(Shards):
    """The files of an index, read from the hub as they are needed.

    Args:
        connection: what a lost connection is waited for with.
        attempts: how often something that is damaged is asked for.
        kept: where a file is at hand, its path.
    """

    def __init__(
        self,
        index: HubIndex,
        connection: Connection,
        attempts: int,
        kept: Callable[[HubFile], Path | None] = lambda file: None,
    ):
        self._index, self._connection, self._attempts, self._kept = index, connection, attempts, kept

    def read(self, file: HubFile, action: Callable[[Any], T]) -> T:
        """What `action` returns for the opened file.

        Raises:
            BadShard: the file is damaged, again and again.
            UserError, MachineError: no access to the file; the hub stayed out of reach.
        """
        path = self._kept(file)
        if path is not None:
            # Let go by another process, or damaged: then it is up to the hub's own whether the file is any use.
            with contextlib.suppress(FileNotFoundError, BadShard):
                return action(path)
        for attempt in range(1, self._attempts + 1):
            try:
                return self._connection.run(lambda: self._read(file, action), f"{self._index.repo}/{file.name}")
            except BadShard:
                if attempt == self._attempts:
                    raise
                self._connection.pause(REFETCH_SECONDS)
        raise AssertionError("at least one attempt")

    def alone(self, file: HubFile) -> contextlib.AbstractContextManager[None]:
        return self._connection.alone(opening_lock(self._index.folder / file.name))

    def close(self) -> None:
        """Whoever waits for the connection gives up."""
        self._connection.close()

    def _read(self, file: HubFile, action: Callable[[Any], T]) -> T:
        opened = RemoteFile(self._index, file)
        try:
            return action(opened)
        except BadShard:
            if opened.failure is None:
                raise
            raise opened.failure from None


class RemoteFile(io.RawIOBase):
    """A file on the hub with random access, each read a request for a range of bytes; reads are never short.

    Attributes:
        failure: what went wrong with a request; pyarrow may hide it behind an error of its own.

    Raises (from `read`):
        BadShard: the answer is not what was asked for.
        UserError, MachineError: no access to the file.
        Other errors: of the connection; the same may succeed later.
    """

    def __init__(self, index: HubIndex, file: HubFile):
        self._index, self._file, self._position = index, file, 0
        self.failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._file.size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        try:
            with asked_for(self._index, self._file, self._position, self._position + wanted) as answer:
                raw = answer.read()
            if len(raw) != wanted:
                raise BadShard(f"{len(raw)} bytes where {wanted} were asked for{html_note(raw)}")
        except Exception as error:
            self.failure = error
            raise
        self._position += wanted
        return raw


def opening_lock(path: Path) -> Path:
    """Of whoever finds out whether the file that belongs at `path` is any use."""
    return path.with_name(f".{path.name}.opening.lock")
