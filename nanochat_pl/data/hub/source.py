"""The documents of a hub data set, read from its parquet files by row groups."""

import hashlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.held_out import hash_fraction
from nanochat_pl.core.paths import write_text
from nanochat_pl.data.hub.bad_shards import BadShards
from nanochat_pl.data.hub.files import HubFile, HubIndex
from nanochat_pl.data.hub.shards import Shards
from nanochat_pl.data.parquet import BadShard, read_footer, read_row_group
from nanochat_pl.data.sources import DocumentSource, MemorySource, read_documents

log = logging.getLogger("nanochat_pl.data")

_FOOTERS = 8
"""Footers held in memory: those of large files have megabytes."""


class HubSource(DocumentSource):
    """One side of the split of a hub data set; a shard is a file, a chunk a row group.

    Args:
        index: the data set.
        files: those of its files that this side reads.
        shards: where they are read from.
        bad: what happens to those that cannot be used.
        text_column: documents without a text (null) are dropped.
        id_column: what the hash is made of; None, or null in a row: the text.
        side: "train": documents whose hash is not below `val_fraction`; "val": those whose hash is; "all".
    """

    def __init__(
        self,
        index: HubIndex,
        files: Sequence[HubFile],
        shards: Shards,
        bad: BadShards,
        *,
        text_column: str = "text",
        id_column: str | None = None,
        side: Literal["train", "val", "all"] = "all",
        val_fraction: float = 0.0,
    ):
        assert files, "a source needs a file"
        self.num_shards = len(files)
        self._null_documents = 0
        self._index, self._files, self._shards, self._bad = index, list(files), shards, bad
        self._text_column, self._id_column = text_column, id_column
        self._side, self._val_fraction = side, val_fraction
        self._lock = threading.Lock()
        self._footers: OrderedDict[int, Future[Any]] = OrderedDict()
        self._num_chunks: dict[int, int] = {}  # for good: a footer that was let go needn't be read again for it

    @property
    def fingerprint(self) -> str:
        names = [file.name for file in self._files]
        rule = [self._text_column, self._id_column, self._side, self._val_fraction]
        return hashlib.sha256(json.dumps([self._index.fingerprint, names, rule]).encode()).hexdigest()

    def num_chunks(self, shard: int) -> int:
        if shard not in self._num_chunks:
            footer = self._footer(shard)
            self._num_chunks[shard] = footer.num_row_groups if footer is not None else 0
        return self._num_chunks[shard]

    def read_chunk(self, shard: int, chunk: int) -> list[str]:
        footer, file = self._footer(shard), self._files[shard]
        if footer is None or self._bad.is_left_out(file.name, chunk):
            return []
        id_column = self._id_column if self._side != "all" else None
        columns = [self._text_column] if id_column is None else [self._text_column, id_column]
        try:
            values = self._shards.read(file, lambda opened: read_row_group(opened, footer, chunk, columns))
        except BadShard as error:
            self._bad.leave_out(file.name, error, chunk)
            return []
        texts = values[0]
        ids = values[1] if id_column is not None else [None] * len(texts)
        documents = [text for text, name in zip(texts, ids) if text is not None and self._is_ours(text, name)]
        self._count_nulls(file, sum(text is None for text in texts))
        return documents

    def coming(self, shards: Sequence[int]) -> None:
        self._shards.coming(
            [self._files[shard] for shard in shards if not self._bad.is_left_out(self._files[shard].name)]
        )

    def what_is_missing(self, shard: int) -> str | None:
        note = self._bad.note(self._files[shard].name)
        return note and f"{self._files[shard].name}: {note}"

    def counters(self) -> dict[str, int]:
        """`left_out_shards`: files that are bad, or have bad row groups; `null_documents`: dropped in this process."""
        return {"left_out_shards": self._bad.count, "null_documents": self._null_documents}

    def close(self) -> None:
        """Nobody reads any more: whoever waits for the hub gives up with a `MachineError`."""
        self._shards.close()

    def _is_ours(self, text: str, name: object) -> bool:
        if self._side == "all":
            return True
        held_out = hash_fraction(text if name is None else str(name)) < self._val_fraction
        return held_out == (self._side == "val")

    def _count_nulls(self, file: HubFile, count: int) -> None:
        if not count:
            return
        with self._lock:
            if not self._null_documents:
                log.warning("%s has documents without a text (null in '%s'): dropped.", file.name, self._text_column)
            self._null_documents += count

    def _footer(self, shard: int) -> Any | None:
        """The footer of a file, opened by one thread while others wait; None where the file is left out."""
        with self._lock:
            footer = self._footers.get(shard)
            is_new = footer is None
            if footer is None:
                footer = self._footers[shard] = Future()
            self._footers.move_to_end(shard)
            if len(self._footers) > _FOOTERS:
                self._footers.popitem(last=False)
        if is_new:
            try:
                footer.set_result(self._open(self._files[shard]))
            except BaseException as error:
                with self._lock:
                    self._footers.pop(shard, None)
                footer.set_exception(error)
        return footer.result()

    def _open(self, file: HubFile) -> Any | None:
        with self._shards.alone(file):
            self._bad.refresh(file.name)
            if self._bad.is_left_out(file.name):
                return None
            try:
                footer = self._shards.read(file, lambda opened: read_footer(opened, self._text_column, self._id_column))
            except BadShard as error:
                self._bad.leave_out(file.name, error)
                return None
            self._bad.is_good(file.name)
            return footer


class KeptDocuments(DocumentSource):
    """The first documents of a source, so many characters of them, kept in a file: it is read once, and never offline.

    Args:
        path: of the file, one JSON string a line.
        characters: how many at least, if there are as many.
    """

    def __init__(self, source: DocumentSource, path: Path, characters: int):
        self._source, self._path, self._characters = source, path, characters
        self._lock = threading.Lock()
        self._memory: MemorySource | None = None

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._source.fingerprint} {self._characters}".encode()).hexdigest()

    def close(self) -> None:
        self._source.close()

    def num_chunks(self, shard: int) -> int:
        return self._documents().num_chunks(shard)

    def read_chunk(self, shard: int, chunk: int) -> list[str]:
        return self._documents().read_chunk(shard, chunk)

    def _documents(self) -> MemorySource:
        with self._lock:
            if self._memory is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(self._path.with_suffix(".lock")):
                    if not self._path.exists():
                        self._gather()
                lines = self._path.read_text(encoding="utf-8").splitlines()
                self._memory = MemorySource([json.loads(line) for line in lines])
            return self._memory

    def _gather(self) -> None:
        log.info("Reading the documents held out for validation: once, then they are kept in %s.", self._path)
        lines, characters = [], 0
        for document in read_documents(self._source):
            lines.append(json.dumps(document))
            characters += len(document)
            if characters >= self._characters:
                break
        if not lines:
            raise UserError(
                "No document is held out for validation: raise data.val_fraction, or name files with data.val_files."
            )
        write_text(self._path, "\n".join(lines) + "\n")
