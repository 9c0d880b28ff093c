"""From text to rows: a real document of the run, the merges of one of its words, its tokens, and the first batch."""

import itertools
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.packing import BestFitPacker, Piece, Reference
from nanochat_pl.data.specs import DataSpec
from nanochat_pl.data.stream import Dealer, PieceStream
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.bpe import BPETokenizer
from nanochat_pl.video.attention import token_text
from nanochat_pl.video.scene import Scene, scene

SHOWN_ROWS = 12
SHOWN_TOKENS = 56
"""Of the document, about."""
LONGEST_WORD_BYTES = 12
READ_TOKENS = 250_000
"""Until the batch that is shown."""


class WatchedPacker:
    """A stream's packer, of which every choice is seen from outside: by what it took and what came into the row."""

    def __init__(self, pieces: Iterator[Piece], bos_id: int, buffer_documents: int):
        self._taken: list[Piece] = []
        self._read = 0
        self._waiting: list[Piece] = []
        self._bos_id, self._buffer_documents = bos_id, buffer_documents
        self._packer = BestFitPacker(self._recorded(pieces), bos_id, buffer_documents)

    def fill(self, row: np.ndarray) -> list[dict[str, Any]]:
        """Fill a row; its choices in their order.

        Returns:
            For each `room` (tokens left in the row), `waiting` (lengths in the buffer, BOS included, sorted), and of
            the piece that was taken `length`, `placed` (tokens of it in the row) and `reference` (None: no piece).
        """
        self._packer.fill(row)
        starts = np.flatnonzero(row == self._bos_id).tolist()
        choices = []
        for start, end in zip(starts, [*starts[1:], len(row)]):
            while len(self._waiting) < self._buffer_documents and self._read < len(self._taken):
                self._waiting.append(self._taken[self._read])
                self._read += 1
            waiting = sorted(len(piece.ids) + 1 for piece in self._waiting)
            if end - start == 1:  # the BOS alone fills the last place; no piece is spent on it
                choices.append({"room": 1, "waiting": waiting, "length": 1, "placed": 1, "reference": None})
                continue
            piece = self._waiting.pop(self._find(row[start + 1 : end]))
            taken = {"length": len(piece.ids) + 1, "placed": end - start, "reference": piece.reference}
            choices.append({"room": len(row) - start, "waiting": waiting} | taken)
        return choices

    def _recorded(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            self._taken.append(piece)
            yield piece

    def _find(self, ids: np.ndarray) -> int:
        """The place of the shortest waiting piece that begins with these ids."""
        places = [i for i, piece in enumerate(self._waiting) if np.array_equal(piece.ids[: len(ids)], ids)]
        return min(places, key=lambda i: len(self._waiting[i].ids))


def pack_rows(
    dealer: Dealer, tokenizer: Tokenizer, sequence_len: int, count: int, buffer_documents: int, pool: Executor
) -> Iterator[tuple[np.ndarray, list[dict[str, Any]]]]:
    """The first rows of a run and the choices behind each; row n comes from stream n mod V."""
    packers = []
    for n in range(count):
        if n < dealer.streams:
            pieces = PieceStream(dealer, n, tokenizer, sequence_len, pool)
            packers.append(WatchedPacker(pieces, tokenizer.bos_id, buffer_documents))
        row = np.empty(sequence_len + 1, dtype=np.int64)
        yield row, packers[n % dealer.streams].fill(row)


def pipeline_scene(
    data: DataSpec,
    tokenizer: Tokenizer,
    *,
    name: str,
    sequence_len: int,
    rows_per_step: int,
    steps: int,
    seed: int,
    trained_on: str | None = None,
) -> Scene:
    """Of a batch of a pretraining, early enough to be packed again within seconds, late enough for mixed rows: at
    first a full buffer has a piece of a row's length for every row.

    Args:
        steps: that the run has trained.
        trained_on: the fingerprint of its training data; None: it is not known.

    Raises:
        UserError: the run does not pack text into rows by best fit; its data are others now.
    """
    if data.holds != "text" or data.packing != "best_fit":
        raise UserError(
            f"The data of this run hold {data.holds} with packing={getattr(data, 'packing', None)}, and the video "
            "shows how documents are packed by best fit. Name a run whose base stage was trained so."
        )
    step = max(1, min(steps, READ_TOKENS // (rows_per_step * sequence_len)))
    sources = data.build_sources()
    try:
        if trained_on not in (None, sources[0].fingerprint):
            raise UserError(
                f"The training data of {name} were changed since: their fingerprint was {trained_on[:12]}, is "
                f"{sources[0].fingerprint[:12]}. The video would show rows that it has never read; restore the data."
            )
        dealer = Dealer(sources[0], data.streams, seed)
        buffer = data.buffered_documents(sources[0])
        with ThreadPoolExecutor(1) as pool:
            choices = [c for _, c in pack_rows(dealer, tokenizer, sequence_len, step * rows_per_step, buffer, pool)]
        first = (step - 1) * rows_per_step
        batch = choices[first : first + SHOWN_ROWS]
        row = max(range(len(batch)), key=lambda i: len(batch[i]))
        text = _beginning(dealer, (first + row) % data.streams, batch[row][0]["reference"], tokenizer)
    finally:
        for source in sources:
            source.close()
    ids = tokenizer.encode(text)
    return scene(
        "pipeline",
        name,
        text=text,
        bytes=len(text.encode()),
        tokens=[{"id": i, "text": token_text(tokenizer, i)} for i in ids],
        tokenizer=tokenizer.kind,
        vocabulary=tokenizer.vocab_size,
        merges=word_of_merges(tokenizer, ids),
        row_tokens=sequence_len + 1,
        rows_per_step=rows_per_step,
        streams=data.streams,
        buffer_documents=buffer,
        step=step,
        row=row,
        choices=[{key: choice[key] for key in ("room", "length", "placed", "waiting")} for choice in batch[row]],
        rows=[[{"tokens": choice["placed"], "of": choice["length"]} for choice in row] for row in batch],
    )


def merge(ranks: dict[bytes, int], data: bytes) -> list[list[bytes]]:
    """Byte pair encoding step by step: bytes first, then each time the pair of the lowest rank joined, to the end."""
    parts = [data[i : i + 1] for i in range(len(data))]
    states = [parts]
    while True:
        pairs = [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]
        if not pairs:
            return states
        _, i = min(pairs)
        parts = [*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]]
        states.append(parts)


def word_of_merges(tokenizer: Tokenizer, ids: list[int]) -> list[list[str]]:
    """The steps to the longest token among `ids` that is not too long; none where tokens are not made by merging."""
    if not isinstance(tokenizer, BPETokenizer):
        return []
    words = [data for i in ids if (data := tokenizer.decode_bytes([i])).isascii() and len(data) <= LONGEST_WORD_BYTES]
    if not words:
        return []
    return [[part.decode() for part in state] for state in merge(tokenizer.ranks, max(words, key=len))]


def _beginning(dealer: Dealer, stream: int, reference: Reference, tokenizer: Tokenizer) -> str:
    """Of the document that a piece is part of: its text, of a long one whole words from its beginning."""
    slot, place, row, _ = reference
    document = dealer.documents(slot, dealer.chunks(stream, slot)[place])[row]
    [ids] = dealer.source.encode(tokenizer, [document], num_threads=1)
    if len(ids) <= 1.2 * SHOWN_TOKENS:
        return tokenizer.decode(ids)
    text = tokenizer.decode(ids[:SHOWN_TOKENS])
    return text.rpartition(" ")[0] or text
