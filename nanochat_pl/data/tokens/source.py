"""Prepared tokens as a source of documents, and all of them in a row for random windows."""

import functools
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.sources import DocumentSource, TokenArray
from nanochat_pl.data.tokens.shard import ChunkSums, TokenShard, read_header

OPEN_FILES = 64
"""So many files are mapped at once: a system allows a process about a thousand."""


class JoinedTokens:
    """Several arrays read as one; only what is sliced is read.

    Args:
        lengths: of the arrays.
        read: what stands in the array of a number from here to there.
    """

    def __init__(self, lengths: Sequence[int], read: Callable[[int, int, int], np.ndarray]):
        self._ends = np.cumsum(lengths, dtype=np.int64).tolist()
        self._read = read

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, part: slice) -> np.ndarray:
        """Tokens of a slice with step 1: a view where they lie in one array."""
        start, stop, step = part.indices(len(self))
        assert step == 1
        found = []
        number = bisect_right(self._ends, start)
        while start < stop:
            offset = self._ends[number - 1] if number else 0
            end = min(stop, self._ends[number])
            if start < end:
                found.append(self._read(number, start - offset, end - offset))
            start, number = end, number + 1
        return found[0] if len(found) == 1 else np.concatenate(found or [np.empty(0, dtype=np.uint16)])


class TokenSource(DocumentSource):
    """Documents of token shards, in the shards and chunks of the source that was tokenized.

    Args:
        files: in the order in which they were written; those of one shard follow each other.
        num_shards: shards of the source; some may have no file.

    Raises:
        UserError: a file is missing, damaged, of another tokenizer than the first, or does not go on where the file
            before it ends.
    """

    holds_tokens = True

    def __init__(self, files: Sequence[Path], num_shards: int):
        self.num_shards = num_shards
        self._files = list(files)
        self._headers = [read_header(path) for path in self._files]
        self._numbers: dict[int, list[int]] = {}
        for number, header in enumerate(self._headers):
            before = self._numbers.setdefault(header.shard, [])
            if header.first_chunk != (self._end(before[-1]) if before else 0) or header.shard >= num_shards:
                raise UserError(
                    f"{self._files[number]} does not go on where the file before it ends: files of another preparation "
                    "are mixed in. Delete the folder and prepare the tokens again."
                )
            if header.tokenizer != self._headers[0].tokenizer:
                raise UserError(f"{self._files[number]} was made with another tokenizer than {self._files[0]}.")
            before.append(number)
        self._sums: dict[int, ChunkSums] = {}
        self._open = functools.lru_cache(maxsize=OPEN_FILES)(lambda number: TokenShard(self._files[number]))

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"tokens {self.num_shards}".encode())
        for header in self._headers:
            digest.update(header.pack())
        return digest.hexdigest()

    def num_chunks(self, shard: int) -> int:
        numbers = self._numbers.get(shard)
        return self._end(numbers[-1]) if numbers else 0

    def read_chunk(self, shard: int, chunk: int) -> list[np.ndarray]:
        numbers = self._numbers[shard]
        number = numbers[bisect_right(numbers, chunk, key=lambda i: self._headers[i].first_chunk) - 1]
        return self._open(number).read_chunk(chunk - self._headers[number].first_chunk)

    def joined(self) -> TokenArray:
        """All documents in a row, a BOS before each, read as it is sliced."""
        lengths = [header.num_tokens for header in self._headers]
        return JoinedTokens(lengths, self._read)

    def _read(self, number: int, start: int, stop: int) -> np.ndarray:
        shard = self._open(number)
        if number not in self._sums:
            self._sums[number] = shard.sums()
        return shard.read(start, stop, self._sums[number])

    def _end(self, number: int) -> int:
        return self._headers[number].first_chunk + self._headers[number].num_chunks
