"""Tokenizing a source into token shards: by several processes, resumable, the same bytes however it was run.

This process reads the documents in the source's order and writes the files; only the tokenizing is shared out. A file
ends with the first chunk that fills it, or with its shard of the source. So its bytes follow from the documents and the
options alone, and an interrupted preparation goes on behind the files that are there: each says in its header which
chunks it holds. Held-out documents are written together with the others of their shard, which is then fetched once.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.sources import DocumentSource
from nanochat_pl.data.state import short
from nanochat_pl.data.stream import COMING_SHARDS
from nanochat_pl.data.tokens.folder import (
    INDEX_FILE,
    SPLITS,
    TOKENIZER_FOLDER,
    Split,
    TokenIndex,
    describe,
    shard_path,
)
from nanochat_pl.data.tokens.shard import Header, read_header, writing_shard
from nanochat_pl.data.tokens.tokenizing import tokenize_chunks
from nanochat_pl.tokenizers.base import Tokenizer

LOCK_FILE = ".lock"


class Progress(NamedTuple):
    """How far a split is, with what earlier runs have done.

    Attributes:
        documents, tokens: so far.
        share: of its work that is done, from 0 to 1, as far as one can tell.
    """

    split: Split
    documents: int
    tokens: int
    share: float


class Place(NamedTuple):
    """Of a chunk, one of `num_chunks` in its shard."""

    split: Split
    shard: int
    chunk: int
    num_chunks: int


@dataclass(frozen=True)
class Preparation:
    """Documents to train on and documents held out, to be made into token shards.

    Attributes:
        shard_tokens: a file ends with the first chunk that brings it to so many tokens.
        max_tokens: of the documents to train on, those up to the one that reaches so many; None: all.
        max_val_tokens: the same of those held out.
        processes: that tokenize; nothing in the files depends on it.
    """

    train: DocumentSource
    val: DocumentSource
    tokenizer: Tokenizer
    shard_tokens: int = 1 << 28
    max_tokens: int | None = None
    max_val_tokens: int | None = None
    processes: int = 1

    def __post_init__(self) -> None:
        for name in ("shard_tokens", "max_tokens", "max_val_tokens", "processes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
        if self.train.holds_tokens or self.val.holds_tokens:
            raise UserError("These data are token ids already: there is nothing to prepare.")

    @functools.cached_property
    def made_from(self) -> dict[str, Any]:
        """What decides every byte of the files."""
        return {
            "training documents": self.train.fingerprint,
            "held-out documents": self.val.fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "vocab_size": self.tokenizer.vocab_size,
            "dtype": np.dtype(self.tokenizer.dtype).name,
            "shard_tokens": self.shard_tokens,
            "max_tokens": self.max_tokens,
            "max_val_tokens": self.max_val_tokens,
        }

    def run(self, out: Path, on_progress: Callable[[Progress], None] = lambda progress: None) -> TokenIndex:
        """Write token shards, tokenizer and index.json into `out`, as far as they are not there already.

        Raises:
            UserError: `out` holds something else, another process prepares it, or what reading the documents raises.
            MachineError: the disk is full, a process was killed.
        """
        _check_folder(out)
        out.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(out / LOCK_FILE, timeout=0):
                return self._run_locked(out, on_progress)
        except Timeout as error:
            raise UserError(f"Another process is preparing {out}. Wait for it, or name another folder.") from error

    def _run_locked(self, out: Path, on_progress: Callable[[Progress], None]) -> TokenIndex:
        if (out / INDEX_FILE).exists():
            index = TokenIndex.load(out)
            self._check_same(index.made_from, out)
            if index.complete and all(_is_there(out, index, split) for split in SPLITS):
                return index
        for left_over in out.glob(".*.tmp"):
            left_over.unlink()
        TokenIndex(self.made_from).save(out)
        self.tokenizer.save(out / TOKENIZER_FOLDER)
        splits = {
            split: _SplitFiles(out, split, source, limit, self.shard_tokens)
            for split, source, limit in zip(SPLITS, (self.train, self.val), (self.max_tokens, self.max_val_tokens))
        }
        self._write_missing(splits, on_progress)
        index = TokenIndex(self.made_from, True, {split: files.describe() for split, files in splits.items()})
        index.save(out)
        return index

    def _write_missing(self, splits: Mapping[Split, "_SplitFiles"], on_progress: Callable[[Progress], None]) -> None:
        with contextlib.closing(tokenize_chunks(_missing_chunks(splits), self.tokenizer, self.processes)) as encoded:
            chunks = (chunk for place, ids in encoded for chunk in splits[place.split].up_to_limit(place, ids))
            for path, group in itertools.groupby(chunks, lambda chunk: splits[chunk[0].split].file_of(*chunk)):
                first = next(group)
                with writing_shard(path, self.tokenizer, first[0].shard, first[0].chunk) as writer:
                    for place, documents in itertools.chain([first], group):
                        writer.add(documents)
                        on_progress(splits[place.split].progress())

    def _check_same(self, earlier: dict[str, Any], out: Path) -> None:
        different = [name for name in self.made_from if self.made_from[name] != earlier.get(name)]
        if different:
            changes = "; ".join(
                f"{name}: {short(earlier.get(name))} then, {short(self.made_from[name])} now" for name in different
            )
            raise UserError(
                f"{out} holds tokens that were prepared from something else ({changes}). Name another folder with "
                "--out, or delete that one."
            )


class _SplitFiles:
    """The files of one split: those that are there, and those into which the chunks behind them belong.

    Attributes:
        documents, tokens: so far.
        share: of the work that is done.
    """

    def __init__(self, out: Path, split: Split, source: DocumentSource, limit: int | None, shard_tokens: int):
        self.source = source
        self.documents = self.tokens = 0
        self._out, self._split, self._limit, self._shard_tokens = out, split, limit, shard_tokens
        self._count = 0  # of files, the one that is being written included
        self._shard, self._file_tokens = -1, 0  # of that one
        self._start = (0, 0)  # shard and chunk behind the files that were there
        while (header := _header(self._path(self._count))) is not None:
            self._count += 1
            self.documents += header.num_documents
            self.tokens += header.num_tokens
            self._start = (header.shard, header.first_chunk + header.num_chunks)
        self.share = self._start[0] / source.num_shards

    @property
    def is_full(self) -> bool:
        """Whether the limit is reached."""
        return self._limit is not None and self.tokens >= self._limit

    def missing(self, shard: int) -> Iterator[Place]:
        """The chunks of a shard that were not there, until the limit is reached."""
        if self.is_full or not self._start[0] <= shard < self.source.num_shards:
            return
        self.source.coming(range(shard, min(shard + COMING_SHARDS, self.source.num_shards)))
        num_chunks = self.source.num_chunks(shard)
        for chunk in range(self._start[1] if shard == self._start[0] else 0, num_chunks):
            if self.is_full:
                return
            yield Place(self._split, shard, chunk, num_chunks)

    def up_to_limit(self, place: Place, ids: Sequence[np.ndarray]) -> Iterator[tuple[Place, Sequence[np.ndarray]]]:
        """Nothing if the limit is reached, else the chunk up to the document that reaches it."""
        if self.is_full:
            return
        kept = 0
        while kept < len(ids) and not self.is_full:
            self.tokens += len(ids[kept]) + 1
            kept += 1
        self.documents += kept
        done = place.shard + (place.chunk + 1) / place.num_chunks
        self.share = max(done / self.source.num_shards, self.tokens / self._limit if self._limit else 0.0)
        yield place, ids[:kept]

    def file_of(self, place: Place, ids: Sequence[np.ndarray]) -> Path:
        """The file to which the next chunk belongs."""
        if place.shard != self._shard or self._file_tokens >= self._shard_tokens:
            self._count += 1
            self._shard, self._file_tokens = place.shard, 0
        self._file_tokens += sum(map(len, ids)) + len(ids)
        return self._path(self._count - 1)

    def progress(self) -> Progress:
        """What to tell."""
        return Progress(self._split, self.documents, self.tokens, min(1.0, self.share))

    def describe(self) -> dict[str, Any]:
        """What the index says of them."""
        paths = [self._path(number) for number in range(self._count)]
        files = [describe(path, read_header(path)) for path in paths]
        totals = {name: sum(entry[name] for entry in files) for name in ("documents", "tokens", "bytes")}
        return {"shards": self.source.num_shards, **totals, "files": files}

    def _path(self, number: int) -> Path:
        return shard_path(self._out, self._split, number)


def _missing_chunks(splits: Mapping[Split, _SplitFiles]) -> Iterator[tuple[Place, list[str]]]:
    """The chunks that are in no file, shard by shard."""
    for shard in range(max(files.source.num_shards for files in splits.values())):
        for files in splits.values():
            for place in files.missing(shard):
                yield place, files.source.read_chunk(place.shard, place.chunk)


def _header(path: Path) -> Header | None:
    """Of a file that is finished."""
    try:
        return read_header(path)
    except UserError:
        return None


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder to write the tokens to.")
    if out.exists() and not (out / INDEX_FILE).exists() and any(path.name != LOCK_FILE for path in out.iterdir()):
        raise UserError(f"The folder {out} is not empty, and holds no prepared tokens. Name another one.")


def _is_there(out: Path, index: TokenIndex, split: Split) -> bool:
    try:
        index.open(out, split)
    except UserError:
        return False
    return True
