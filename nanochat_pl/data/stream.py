"""Virtual streams: the documents of a source, dealt to V streams in an order that follows from (seed, epoch) alone.

Training walks the shards of an epoch in a shuffled order (or in their own, where each is an epoch), all streams through
the same one at about the same time, so that only a few need be at hand. The chunks of a shard are shuffled and dealt to
the streams like cards, going on where the last shard's left off where all have equally many: chunk p of slot q to
stream (p + q G) mod V. So each document is read exactly once per epoch by exactly one stream, whatever the number of
chunks, and a source with fewer chunks than streams works too: its streams then read different epochs of it at the same
time. Inside a chunk the documents are shuffled, inside a document of several rows its parts; none of these orders needs
saving.
"""

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

import numpy as np

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.order import permutation
from nanochat_pl.data.packing import START, Piece, Reference
from nanochat_pl.data.sources import DocumentSource
from nanochat_pl.tokenizers.base import Tokenizer

AHEAD_CHARACTERS = 1 << 17
AHEAD_DOCUMENTS = 128
"""A stream tokenizes ahead in jobs that end at the first of these two."""

COMING_SHARDS = 4
"""How many shards the source is told of: the one that is read and those that follow."""

_SHARDS, _CHUNKS, _DOCUMENTS, _PARTS = range(4)  # keeps the four shuffles apart


class Dealer(NamedTuple):
    """Which documents each stream reads, in which order.

    A slot is a shard in an epoch, counted over the epochs.

    Attributes:
        source: the documents.
        streams: V, the number of virtual streams.
        seed: of the order.
    """

    source: DocumentSource
    streams: int
    seed: int

    def shard(self, slot: int) -> tuple[int, int]:
        """(epoch, shard) of a slot."""
        epoch, place = divmod(slot, self.source.num_shards)
        if self.source.each_shard_is_an_epoch:
            return epoch, place
        return epoch, int(_order(self.source.num_shards, self.seed, _SHARDS, epoch)[place])

    def first_epoch(self) -> list[int]:
        """All shards, in the order in which a training reads them first."""
        return [self.shard(slot)[1] for slot in range(self.source.num_shards)]

    def chunks(self, stream: int, slot: int) -> list[int]:
        """The chunks that a stream reads in a slot, in its order; may be empty."""
        epoch, shard = self.shard(slot)
        count = self.source.num_chunks(shard)
        order = _order(count, self.seed, _CHUNKS, epoch, shard)
        return order[(stream - slot * count) % self.streams :: self.streams].tolist()

    def documents(self, slot: int, chunk: int) -> list[Any]:
        """The documents of a chunk, in the order in which its stream reads them."""
        epoch, shard = self.shard(slot)
        documents = self.source.read_chunk(shard, chunk)
        return [documents[i] for i in permutation(len(documents), self.seed, _DOCUMENTS, epoch, shard, chunk)]

    def cut(self, ids: np.ndarray, sequence_len: int, slot: int, chunk: int, place: int, row: int) -> list[Piece]:
        """The pieces of at most `sequence_len` tokens of document `row` of a chunk; none for an empty document.

        Args:
            place: the chunk's, in what its stream reads of the slot.
        """
        count = -(-len(ids) // sequence_len)
        if count == 1:
            return [Piece(ids, (slot, place, row, 0), (slot, place, row + 1, 0))]
        epoch, shard = self.shard(slot)
        order = permutation(count, self.seed, _PARTS, epoch, shard, chunk, row).tolist()
        return [
            Piece(
                ids[start * sequence_len : (start + 1) * sequence_len],
                (slot, place, row, part),
                (slot, place, row, part + 1) if part + 1 < count else (slot, place, row + 1, 0),
            )
            for part, start in enumerate(order)
        ]


@functools.lru_cache(maxsize=16)
def _order(count: int, *key: int) -> np.ndarray:
    return permutation(count, *key)


class PieceStream(Iterator[Piece]):
    """The endless pieces of one virtual stream from a position on, tokenized one job ahead in `pool`.

    Raises (from `next`):
        UserError: what reading the source raises; there is no document at all.
    """

    def __init__(
        self,
        dealer: Dealer,
        stream: int,
        tokenizer: Tokenizer,
        sequence_len: int,
        pool: Executor,
        position: Reference = START,
    ):
        self._dealer, self._stream, self._tokenizer = dealer, stream, tokenizer
        self._sequence_len, self._pool = sequence_len, pool
        self._slot, self._place, self._row, self._first = position
        self._num_chunks: dict[int, int] = {}
        self._barren: set[tuple[int, int]] | None = set()  # (shard, chunk) without a document, until one has some
        self._chunks: list[int] | None = None
        self._documents: list[Any] | None = None
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
        chunk, documents = self._chunk()
        end, characters = self._row, 0
        while end < min(len(documents), self._row + AHEAD_DOCUMENTS) and characters < AHEAD_CHARACTERS:
            characters += len(documents[end])
            end += 1
        ids = self._dealer.source.encode(self._tokenizer, documents[self._row : end], num_threads=1)
        pieces: list[Piece] = []
        for row, document in enumerate(ids, self._row):
            pieces += self._dealer.cut(document, self._sequence_len, self._slot, chunk, self._place, row)
        if self._first:
            pieces, self._first = pieces[self._first :], 0
        self._row = end
        if end >= len(documents):
            self._place, self._row, self._documents = self._place + 1, 0, None
        return pieces

    def _chunk(self) -> tuple[int, list[Any]]:
        """The chunk that is being read, and its documents."""
        while self._chunks is None or self._place >= len(self._chunks):
            if self._chunks is not None:
                self._slot, self._place = self._slot + 1, 0
            self._dealer.source.coming([self._dealer.shard(self._slot + i)[1] for i in range(COMING_SHARDS)])
            self._chunks = self._dealer.chunks(self._stream, self._slot)
            self._check_for_documents()
        chunk = self._chunks[self._place]
        if self._documents is None:
            self._documents = self._dealer.documents(self._slot, chunk)
            if self._documents:
                self._barren = None
            elif self._barren is not None:
                self._barren.add((self._dealer.shard(self._slot)[1], chunk))
        return chunk, self._documents

    def _check_for_documents(self) -> None:
        """Raise `UserError` where every chunk was read, and none had a document: it would go on for ever."""
        if self._barren is None:
            return
        source, shard = self._dealer.source, self._dealer.shard(self._slot)[1]
        self._num_chunks[shard] = source.num_chunks(shard)
        if len(self._num_chunks) == source.num_shards and len(self._barren) == sum(self._num_chunks.values()):
            raise UserError("The training data hold no document: every shard is empty or had to be left out.")


def load_pieces(
    dealer: Dealer, stream: int, tokenizer: Tokenizer, sequence_len: int, references: Iterable[Reference]
) -> tuple[Piece, ...]:
    """The pieces that the references name, in the stream's order; reads each chunk once.

    Raises:
        UserError: the source has no such piece.
    """
    wanted: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for slot, place, row, part in sorted(references):
        wanted[slot, place][row].append(part)
    pieces: list[Piece] = []
    for (slot, place), rows in wanted.items():
        chunks = dealer.chunks(stream, slot)
        documents = dealer.documents(slot, chunks[place]) if place < len(chunks) else []
        if max(rows) >= len(documents):
            raise _changed(dealer, slot)
        ids = dealer.source.encode(tokenizer, [documents[row] for row in rows], num_threads=1)
        for (row, parts), document in zip(rows.items(), ids):
            cut = dealer.cut(document, sequence_len, slot, chunks[place], place, row)
            if max(parts) >= len(cut):
                raise _changed(dealer, slot)
            pieces += [cut[part] for part in parts]
    return tuple(pieces)


def _changed(dealer: Dealer, slot: int) -> UserError:
    shard = dealer.shard(slot)[1]
    reason = dealer.source.what_is_missing(shard) or "the files were changed since it was written"
    return UserError(
        f"The checkpoint holds documents of shard {shard} that the data no longer have: {reason}. Bring them back and "
        "run the same command again, or start anew with run.fresh=true."
    )
