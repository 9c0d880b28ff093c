"""Where the files of a data set are read from: what all ways have in common, and the plainest of them."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nanochat_pl.data.hub.files import HubFile
from nanochat_pl.data.parquet import BadShard

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


def opening_lock(path: Path) -> Path:
    """Of whoever finds out whether the file that belongs at `path` is any use."""
    return path.with_name(f".{path.name}.opening.lock")
