"""Reading single row groups of files on the hub by range requests; nothing is kept."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from nanochat_pl.data.connection import Connection
from nanochat_pl.data.hub import HubFile, HubIndex
from nanochat_pl.data.shard_file import BadShard

T = TypeVar("T")


class RemoteShards:
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
            with contextlib.suppress(FileNotFoundError):  # another process has just let it go
                return action(path)
        for attempt in range(1, self._attempts + 1):
            try:
                return self._connection.run(lambda: self._read(file, action), f"{self._index.repo}/{file.name}")
            except BadShard:
                if attempt == self._attempts:
                    raise
        raise AssertionError("at least one attempt")

    def coming(self, files: list[HubFile]) -> None:
        """Nothing is fetched ahead."""

    def _read(self, file: HubFile, action: Callable[[Any], T]) -> T:
        with open_remote(self._index, file) as opened:
            try:
                return action(opened)
            except BadShard:
                if opened.failure is not None:
                    raise opened.failure from None
                raise


@contextlib.contextmanager
def open_remote(index: HubIndex, file: HubFile) -> Iterator["RemoteFile"]:
    """A file on the hub, with random access by range requests.

    Raises:
        UserError, MachineError: no access to it.
    """
    from huggingface_hub import HfFileSystem
    from huggingface_hub.errors import HfHubHTTPError

    from nanochat_pl.data.connection import is_connection_error
    from nanochat_pl.data.hub_resolve import access_error

    path = f"datasets/{index.repo}@{index.revision}/{file.name}"
    try:
        with HfFileSystem().open(path, "rb", size=file.size, block_size=1 << 20, cache_type="none") as opened:
            yield RemoteFile(opened)
    except (HfHubHTTPError, FileNotFoundError) as error:
        if is_connection_error(error):
            raise
        raise access_error(error, index.repo, index.revision) from error


class RemoteFile(io.RawIOBase):
    """A file of `HfFileSystem` that gives exactly what it is asked for: fsspec passes on whatever the server sends.

    Attributes:
        failure: what went wrong with a request; pyarrow may hide it behind an error of its own.
    """

    def __init__(self, file: Any):
        self._file = file
        self.failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int | None = -1) -> bytes:
        left = self._file.size - self.tell()
        wanted = left if size is None or size < 0 else min(size, left)
        try:
            raw = self._file.read(wanted) if wanted > 0 else b""
        except Exception as error:
            self.failure = error
            raise
        if len(raw) != wanted:
            self.failure = BadShard(f"{len(raw)} bytes where {wanted} were asked for{_kind_of(raw)}")
            raise self.failure
        return raw


def _kind_of(raw: bytes) -> str:
    return " (an HTML page)" if raw.lstrip()[:1] == b"<" else ""
