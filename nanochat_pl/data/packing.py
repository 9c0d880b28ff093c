"""Best-fit packing: fill a row with the largest pieces that fit, crop only when nothing fits.

A piece is a document, or a row's worth of a long one; `BestFitPacker` keeps a small buffer of them sorted by length, so
a choice costs O(log n). The idea (a row begins with BOS, no padding, crop the shortest) is that of nanochat's
dataloader; splitting long documents instead of throwing their tails away, the bounded wait, and the cheap snapshots are
ours.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

Packing = Literal["best_fit", "whole", "windows"]
"""Rows filled with documents, the last one cropped; rows of whole documents and padding; or random windows of all text.
"""

Reference = tuple[int, int, int, int]
"""Where a piece comes from: the slot (shards counted over the epochs), the chunk's place in what its stream reads of
the slot, the document's place in the chunk, the part."""

START: Reference = (0, 0, 0, 0)

WAIT_BUFFERS = 8
"""A piece that has seen so many buffers' worth of others arrive begins the next row. Best fit alone leaves pieces of a
middling length in the buffer for good: they would never be trained on, and a resume would have to read their shards."""

_ARRIVAL_BITS = 40


class Piece(NamedTuple):
    """At most T tokens of one document, without the BOS that the packer puts before them.

    Attributes:
        ids: (n,) token ids, 1 <= n <= T.
        reference: where they come from; grows along the stream.
        after: the reference at which the stream goes on behind this piece.
    """

    ids: np.ndarray
    reference: Reference
    after: Reference


class PackerState(NamedTuple):
    """An immutable snapshot of one packer: where its stream goes on, what it holds, what it has counted.

    Attributes:
        position: reference of the first piece that was not taken from the stream.
        held: references of the pieces in the buffer, in any order.
        arrivals: for each of them, how many pieces had been taken from the stream before it.
        pieces: number of pieces placed in rows, whole or cropped.
        tokens: number of tokens placed in rows, BOS included.
        cropped_tokens: number of tokens cut off and never trained on in this pass.
    """

    position: Reference = START
    held: tuple[Reference, ...] = ()
    arrivals: tuple[int, ...] = ()
    pieces: int = 0
    tokens: int = 0
    cropped_tokens: int = 0


class BestFitPacker:
    """Packs the pieces of one stream into rows.

    Args:
        stream: the pieces from `state.position` on.
        bos_id: the token before every piece, and the padding.
        buffer_documents: pieces to choose from; the buffer is full at every choice while the stream lasts.
        held: the pieces that `state.held` refers to, in the stream's order.
        state: the snapshot to go on from.
        crop: where no piece fits into a row's rest, crop the shortest; else the rest is padding, and no piece may be
            longer than a row.
    """

    def __init__(
        self,
        stream: Iterator[Piece],
        bos_id: int,
        buffer_documents: int,
        held: tuple[Piece, ...] = (),
        state: PackerState | None = None,
        crop: bool = True,
    ):
        state = state or PackerState()
        self._stream = stream
        self._bos_id = bos_id
        self._capacity = buffer_documents
        self._crop = crop
        # Three lists in one order, by (length with BOS, arrival): the keys pack both into one int.
        self._keys: list[int] = []
        self._ids: list[np.ndarray] = []
        self._held: list[Reference] = []
        self._waiting: deque[int] = deque()  # keys in the order of arrival, some of them placed already
        self._position = state.position
        self.filled = 0
        self._pieces, self._tokens, self._cropped_tokens = state.pieces, state.tokens, state.cropped_tokens
        for piece, arrival in zip(held, sorted(state.arrivals), strict=True):
            self._insert(piece, arrival)

    def fill(self, row: np.ndarray) -> bool:
        """Fill `row` (any length, any integer type) to its end; False if the stream ended before it.

        A finite stream may leave the row's rest untouched; `filled` then says how far it came.
        """
        start, end = 0, len(row)
        while start < end:
            if len(self._keys) < self._capacity:
                self._refill()
            if not self._keys:
                break
            index = self._overdue() if start == 0 else None
            placed = self._place(row[start:], index)
            if not placed:
                assert start, "no piece is longer than a row"
                row[start:] = self._bos_id
                break
            start += placed
        self.filled = start
        self._tokens += start
        return start == end or bool(self._keys)

    def snapshot(self) -> PackerState:
        """The state after the rows filled so far; a few microseconds."""
        mask = (1 << _ARRIVAL_BITS) - 1
        arrivals = tuple([key & mask for key in self._keys])
        return PackerState(
            self._position, tuple(self._held), arrivals, self._pieces, self._tokens, self._cropped_tokens
        )

    def _overdue(self) -> int | None:
        """The place of the piece that has waited longest, if that is too long."""
        while self._find(self._waiting[0]) is None:
            self._waiting.popleft()
        oldest = self._waiting[0]
        arrived = self._pieces + len(self._keys)
        too_long = arrived - (oldest & ((1 << _ARRIVAL_BITS) - 1)) > WAIT_BUFFERS * self._capacity
        return self._find(oldest) if too_long else None

    def _find(self, key: int) -> int | None:
        index = bisect_left(self._keys, key)
        return index if index < len(self._keys) and self._keys[index] == key else None

    def _place(self, space: np.ndarray, index: int | None) -> int:
        """Put the piece at `index`, or the best one, at the start of `space`; return the number of tokens written.

        Nothing is written where no piece fits and none may be cropped.
        """
        keys, room = self._keys, len(space)
        if room == 1:  # the BOS that would follow anyway; no piece is spent on it
            space[0] = self._bos_id
            return 1
        if index is None:
            index = self._best(room)
        length = keys[index] >> _ARRIVAL_BITS
        if length > room and not self._crop:
            return 0
        if length > room:
            self._cropped_tokens += length - room
            length = room
        space[0] = self._bos_id
        space[1:length] = self._ids[index][: length - 1]
        del keys[index], self._ids[index], self._held[index]
        self._pieces += 1
        return length

    def _best(self, room: int) -> int:
        """The largest piece that fits, else the shortest; the oldest among equals."""
        keys = self._keys
        index = bisect_left(keys, (room + 1) << _ARRIVAL_BITS) - 1
        return bisect_left(keys, keys[index] >> _ARRIVAL_BITS << _ARRIVAL_BITS) if index >= 0 else 0

    def _refill(self) -> None:
        while len(self._keys) < self._capacity:
            piece = next(self._stream, None)
            if piece is None:
                break
            self._insert(piece, self._pieces + len(self._keys))
            self._position = piece.after

    def _insert(self, piece: Piece, arrival: int) -> None:
        key = (len(piece.ids) + 1) << _ARRIVAL_BITS | arrival
        index = bisect_left(self._keys, key)
        self._keys.insert(index, key)
        self._ids.insert(index, piece.ids)
        self._held.insert(index, piece.reference)
        self._waiting.append(key)
