"""Virtual streams: the documents of a source, dealt to V streams in an order that follows from (seed, epoch) alone.

The chunks of every epoch are shuffled and the endless sequence of them (epoch after epoch) is dealt to the streams like
cards, chunk g to stream g mod V. So each document is read exactly once per epoch by exactly one stream, whatever the
number of chunks, and a source with fewer chunks than streams works too: its streams then read different epochs of it
at the same time. Inside a chunk the documents are shuffled, inside a document of several rows its parts; neither order
needs saving.
"""

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import NamedTuple

import numpy as np

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.order import permutation
from nanochat_pl.data.packing import Piece, Reference
from nanochat_pl.data.sources import DocumentSource
from nanochat_pl.tokenizers.base import Tokenizer

AHEAD_CHARACTERS = 1 << 17
AHEAD_DOCUMENTS = 128
"""A stream tokenizes ahead in jobs that end at the first of these two."""

_CHUNKS, _DOCUMENTS, _PARTS = range(3)  # keeps the three shuffles apart


class Dealer(NamedTuple):
    """Which documents each stream reads, in which order.

    Attributes:
        source: the documents.
        streams: V, the number of virtual streams.
        seed: of the order.
    """

    source: DocumentSource
    streams: int
    seed: int

    def chunk(self, stream: int, ordinal: int) -> tuple[int, int]:
        """(epoch, chunk) of the stream's chunk number `ordinal`."""
        epoch, place = divmod(stream + ordinal * self.streams, self.source.num_chunks)
        return epoch, int(_chunk_order(self.source.num_chunks, self.seed, epoch)[place])

    def documents(self, stream: int, ordinal: int) -> list[str]:
        """The documents of the stream's chunk number `ordinal`, in the order in which the stream reads them."""
        epoch, chunk = self.chunk(stream, ordinal)
        texts = self.source.read_chunk(chunk)
        return [texts[i] for i in permutation(len(texts), self.seed, _DOCUMENTS, epoch, chunk)]

    def cut(self, ids: np.ndarray, sequence_len: int, stream: int, ordinal: int, row: int) -> list[Piece]:
        """The document's pieces of at most `sequence_len` tokens; none for an empty document."""
        count = -(-len(ids) // sequence_len)
        if count == 1:
            return [Piece(ids, (ordinal, row, 0), (ordinal, row + 1, 0))]
        order = permutation(count, self.seed, _PARTS, *self.chunk(stream, ordinal), row).tolist()
        return [
            Piece(
                ids[start * sequence_len : (start + 1) * sequence_len],
                (ordinal, row, part),
                (ordinal, row, part + 1) if part + 1 < count else (ordinal, row + 1, 0),
            )
            for part, start in enumerate(order)
        ]


@functools.lru_cache(maxsize=8)
def _chunk_order(num_chunks: int, seed: int, epoch: int) -> np.ndarray:
    return permutation(num_chunks, seed, _CHUNKS, epoch)


class PieceStream(Iterator[Piece]):
    """The endless pieces of one virtual stream from a position on, tokenized one job ahead in `pool`.

    Raises (from `next`):
        UserError: what reading the source raises.
    """

    def __init__(
        self,
        dealer: Dealer,
        stream: int,
        tokenizer: Tokenizer,
        sequence_len: int,
        pool: Executor,
        position: Reference = (0, 0, 0),
    ):
        self._dealer, self._stream, self._tokenizer = dealer, stream, tokenizer
        self._sequence_len, self._pool = sequence_len, pool
        self._ordinal, self._row, self._first = position
        self._texts: list[str] | None = None
        self._ready: Iterator[Piece] = iter(())
        self._ahead: Future[list[Piece]] = pool.submit(self._read_ahead)

    def __next__(self) -> Piece:
        while True:
            piece = next(self._ready, None)
            if piece is not None:
                return piece
            self._ready = iter(self._ahead.result())
            self._ahead = self._pool.submit(self._read_ahead)

    def _read_ahead(self) -> list[Piece]:
        """The next job's pieces. Only one job of a stream is under way, so its state needs no lock."""
        if self._texts is None:
            self._texts = self._dealer.documents(self._stream, self._ordinal)
        end = end_of_job(self._texts, self._row)
        ids = self._tokenizer.encode_batch(self._texts[self._row : end], num_threads=1)
        pieces: list[Piece] = []
        for row, document in enumerate(ids, self._row):
            pieces += self._dealer.cut(document, self._sequence_len, self._stream, self._ordinal, row)
        if self._first:
            pieces, self._first = pieces[self._first :], 0
        self._row = end
        if end >= len(self._texts):
            self._ordinal, self._row, self._texts = self._ordinal + 1, 0, None
        return pieces


def end_of_job(texts: Sequence[str], start: int) -> int:
    """Where a job that begins at `start` ends: at least one document, if there is one."""
    end, characters = start, 0
    while end < len(texts) and end - start < AHEAD_DOCUMENTS and characters < AHEAD_CHARACTERS:
        characters += len(texts[end])
        end += 1
    return end


def load_pieces(
    dealer: Dealer, stream: int, tokenizer: Tokenizer, sequence_len: int, references: Iterable[Reference]
) -> tuple[Piece, ...]:
    """The pieces that the references name, in the stream's order; reads each chunk once.

    Raises:
        UserError: the source has no such piece.
    """
    wanted: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for ordinal, row, part in sorted(references):
        wanted[ordinal][row].append(part)
    pieces: list[Piece] = []
    for ordinal, rows in wanted.items():
        texts = dealer.documents(stream, ordinal)
        if max(rows) >= len(texts):
            raise _changed(dealer, stream, ordinal)
        for (row, parts), ids in zip(rows.items(), tokenizer.encode_batch([texts[row] for row in rows], num_threads=1)):
            document = dealer.cut(ids, sequence_len, stream, ordinal, row)
            if max(parts) >= len(document):
                raise _changed(dealer, stream, ordinal)
            pieces += [document[part] for part in parts]
    return tuple(pieces)


def _changed(dealer: Dealer, stream: int, ordinal: int) -> UserError:
    return UserError(
        f"The checkpoint holds documents of chunk {dealer.chunk(stream, ordinal)[1]} that the data no longer have: the "
        "files were changed since it was written. Restore them, or start anew with run.fresh=true."
    )
