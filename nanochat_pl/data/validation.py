"""The fixed rows of the held-out split: the same for every run, rank count and micro-batch."""

import itertools
from collections.abc import Iterator

import numpy as np

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.types import IGNORE_INDEX
from nanochat_pl.data.packing import START, BestFitPacker, Piece
from nanochat_pl.data.sources import DocumentSource, read_documents
from nanochat_pl.data.targets import inputs_and_targets
from nanochat_pl.data.windows import joined
from nanochat_pl.tokenizers.base import Tokenizer

_BUFFER_DOCUMENTS = 128
_AT_ONCE = 64


def packed_rows(
    source: DocumentSource,
    tokenizer: Tokenizer,
    sequence_len: int,
    limit: int | None,
    multiple: int,
    crop: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """The first `limit` rows of one best-fit pass over the documents.

    Args:
        crop: as in `packing.BestFitPacker`.

    Returns:
        inputs and targets, (rows, T) int64 each; rows that don't count fill them up to a multiple of `multiple`.

    Raises:
        UserError: no target in them is text, so that there are no bits per byte.
    """
    pieces = _pieces(source, tokenizer, sequence_len)
    packer = BestFitPacker(pieces, tokenizer.bos_id, _BUFFER_DOCUMENTS, crop=crop)
    rows: list[np.ndarray] = []
    while limit is None or len(rows) < limit:
        row = np.full(sequence_len + 1, IGNORE_INDEX, dtype=np.int64)
        complete = packer.fill(row)
        if packer.filled > 1:
            rows.append(row)
        if not complete:
            break
    return _finish(rows, source, tokenizer, multiple)


def window_rows(
    source: DocumentSource, tokenizer: Tokenizer, sequence_len: int, limit: int | None, multiple: int
) -> tuple[np.ndarray, np.ndarray]:
    """At most `limit` windows of the concatenated text, evenly spaced and apart; returns what `packed_rows` returns."""
    tokens = joined(source, tokenizer, num_threads=1)
    starts = range(0, len(tokens) - 1, sequence_len)
    count = len(starts) if limit is None else min(limit, len(starts))
    rows = []
    for i in range(count):
        start = starts[i * len(starts) // count]
        window = tokens[start : start + sequence_len + 1].astype(np.int64)
        rows.append(np.pad(window, (0, sequence_len + 1 - len(window)), constant_values=IGNORE_INDEX))
    return _finish(rows, source, tokenizer, multiple)


def _finish(
    rows: list[np.ndarray], source: DocumentSource, tokenizer: Tokenizer, multiple: int
) -> tuple[np.ndarray, np.ndarray]:
    if rows:
        rows += [np.full_like(rows[0], IGNORE_INDEX)] * (-len(rows) % multiple)
        block = np.stack(rows)
        inputs, targets = inputs_and_targets(block, marked=source.marks_learned, padding_id=tokenizer.bos_id)
        if tokenizer.token_bytes()[targets[targets >= 0]].any():
            return inputs, targets
    raise UserError(source.nothing_held_out)


def _pieces(source: DocumentSource, tokenizer: Tokenizer, sequence_len: int) -> Iterator[Piece]:
    documents = read_documents(source)
    while batch := list(itertools.islice(documents, _AT_ONCE)):
        for ids in source.encode(tokenizer, batch, num_threads=1):
            for start in range(0, len(ids), sequence_len):
                yield Piece(ids[start : start + sequence_len], START, START)
