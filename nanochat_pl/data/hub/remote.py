"""Reading single row groups of files on the hub by range requests; nothing is kept."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nanochat_pl.data.hub import shards
from nanochat_pl.data.hub.connection import Connection, is_connection_error
from nanochat_pl.data.hub.errors import access_error
from nanochat_pl.data.hub.files import HubFile, HubIndex
from nanochat_pl.data.parquet import BadShard, html_note

T = TypeVar("T")


class RemoteShards(shards.Shards):
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
                self._connection.pause(shards.REFETCH_SECONDS)
        raise AssertionError("at least one attempt")

    def alone(self, file: HubFile) -> contextlib.AbstractContextManager[None]:
        return self._connection.alone(shards.opening_lock(self._index.folder / file.name))

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
            raw = self._get(wanted)
            if len(raw) != wanted:
                raise BadShard(f"{len(raw)} bytes where {wanted} were asked for{html_note(raw)}")
        except Exception as error:
            self.failure = error
            raise
        self._position += wanted
        return raw

    def _get(self, size: int) -> bytes:
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(self._index.repo, self._file.name, repo_type="dataset", revision=self._index.revision)
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        headers |= {"Range": f"bytes={self._position}-{self._position + size - 1}"}
        try:
            response = get_session().get(url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
            hf_raise_for_status(response)
        except HfHubHTTPError as error:
            if is_connection_error(error):
                raise
            if error.response.status_code == 416:
                raise BadShard("the server's file is shorter than it should be") from error
            raise access_error(error, self._index.repo, self._index.revision) from error
        return response.content
