"""Windows of one long text, as nanoGPT draws its batches: row n of a run is a pure function of (seed, n)."""

import itertools

import numpy as np

from nanochat_pl.data.order import random_words
from nanochat_pl.data.packing import PackerState
from nanochat_pl.data.sources import DocumentSource, TokenArray, read_documents
from nanochat_pl.tokenizers.base import Tokenizer

_AT_ONCE = 1024


def joined(source: DocumentSource, tokenizer: Tokenizer, num_threads: int) -> TokenArray:
    """All documents in a row, a BOS before each; text is tokenized and held in memory."""
    prepared = source.joined()
    return concatenate(source, tokenizer, num_threads) if prepared is None else prepared


def concatenate(source: DocumentSource, tokenizer: Tokenizer, num_threads: int) -> np.ndarray:
    """All documents as one array of token ids, a BOS before each; held in memory."""
    documents, arrays = read_documents(source), []
    while batch := list(itertools.islice(documents, _AT_ONCE)):
        for ids in source.encode(tokenizer, batch, num_threads):
            arrays += [np.array([tokenizer.bos_id], dtype=ids.dtype), ids]
    return np.concatenate(arrays)


class WindowRows:
    """Windows of `tokens` as rows; there is no state to save.

    Args:
        shuffle: a row begins anywhere, each place equally likely; else where the row before it ends.
    """

    def __init__(self, tokens: TokenArray, seed: int, shuffle: bool = True):
        self._tokens, self._seed, self._shuffle = tokens, seed, shuffle
        self._words, self._words_from = np.empty(0, dtype=np.uint64), 0

    def fill(self, n: int, row: np.ndarray) -> None:
        """Write row number `n` of the run."""
        start = self._random_start(n, len(row)) if self._shuffle else self._start_in_order(n, len(row))
        row[:] = self._tokens[start : start + len(row)]

    def _start_in_order(self, n: int, length: int) -> int:
        step = length - 1  # the last target of a row is the first input of the next
        return n % ((len(self._tokens) - 1) // step) * step

    def _random_start(self, n: int, length: int) -> int:
        if not 0 <= n - self._words_from < len(self._words):
            self._words_from = n - n % _AT_ONCE
            counters = np.arange(self._words_from, self._words_from + _AT_ONCE, dtype=np.uint64)
            self._words = random_words(counters, self._seed)
        return int(self._words[n - self._words_from]) % (len(self._tokens) - length + 1)

    def snapshot(self) -> dict[int, PackerState]:
        """Nothing."""
        return {}
