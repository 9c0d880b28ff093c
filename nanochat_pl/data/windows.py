"""Random windows of one long text, as nanoGPT draws its batches: row n of a run is a pure function of (seed, n)."""

import itertools

import numpy as np

from nanochat_pl.data.order import random_words
from nanochat_pl.data.packing import PackerState
from nanochat_pl.data.sources import DocumentSource, encode, read_documents
from nanochat_pl.tokenizers.base import Tokenizer

_AT_ONCE = 1024


def concatenate(source: DocumentSource, tokenizer: Tokenizer, num_threads: int) -> np.ndarray:
    """All documents as one array of token ids, a BOS before each; held in memory."""
    documents, arrays = read_documents(source), []
    while batch := list(itertools.islice(documents, _AT_ONCE)):
        for ids in encode(source, tokenizer, batch, num_threads):
            arrays += [np.array([tokenizer.bos_id], dtype=ids.dtype), ids]
    return np.concatenate(arrays)


class WindowRows:
    """Rows that begin anywhere in `tokens`, each place equally likely; there is no state to save."""

    def __init__(self, tokens: np.ndarray, seed: int):
        self._tokens, self._seed = tokens, seed
        self._words, self._words_from = np.empty(0, dtype=np.uint64), 0

    def fill(self, n: int, row: np.ndarray) -> None:
        """Write row number `n` of the run."""
        if not 0 <= n - self._words_from < len(self._words):
            self._words_from = n - n % _AT_ONCE
            counters = np.arange(self._words_from, self._words_from + _AT_ONCE, dtype=np.uint64)
            self._words = random_words(counters, self._seed)
        start = int(self._words[n - self._words_from]) % (len(self._tokens) - len(row) + 1)
        row[:] = self._tokens[start : start + len(row)]

    def snapshot(self) -> dict[int, PackerState]:
        """Nothing."""
        return {}
