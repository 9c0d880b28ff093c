"""Byte pair encoding: trained by rustbpe, used through tiktoken."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import rustbpe
import tiktoken

from nanochat_pl.core.errors import UserError
from nanochat_pl.tokenizers.base import BOS, SPECIAL_TOKENS, Tokenizer, without_surrogates

SPLIT_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"""
    r"""|\s*[\r\n]|\s+(?!\S)|\s+"""
)
"""nanochat's: GPT-4's pattern with at most two digits in a token, which suits small vocabularies."""

N_BYTES = 256
MERGES_FILE = "merges.tiktoken"


class BPETokenizer(Tokenizer):
    """Byte pair encoding with the ranks in tiktoken's sense: bytes of a token -> its id, in the order of merging."""

    kind = "bpe"

    def __init__(self, ranks: dict[bytes, int], pattern: str = SPLIT_PATTERN):
        self.ranks = ranks
        self.pattern = pattern
        self.n_ordinary = len(ranks)
        self._encoding = tiktoken.Encoding(
            "nanochat_pl", pat_str=pattern, mergeable_ranks=ranks, special_tokens=self.special_tokens
        )

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str], num_threads: int = 1) -> list[np.ndarray]:
        return [np.array(self.encode(text), dtype=self.dtype) for text in texts]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        try:
            return self._encoding.decode_bytes(ids)
        except (KeyError, OverflowError) as error:
            raise UserError(f"Token id {error} is not in this vocabulary of {self.vocab_size}.") from error

    def token_bytes(self) -> np.ndarray:
        lengths = np.zeros(self.vocab_size, dtype=np.int32)
        for token, rank in self.ranks.items():
            lengths[rank] = len(token)
        return lengths

    def _definition(self) -> dict[str, Any]:
        return {**super()._definition(), "pattern": self.pattern}

    def _vocabulary_files(self) -> dict[str, str]:
        lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in self.ranks.items())
        return {MERGES_FILE: "".join(lines)}


def train_bpe(texts: Iterable[str], vocab_size: int, max_chars: int | None = None) -> BPETokenizer:
    """Train on the first `max_chars` characters of `texts`; `vocab_size` includes the special tokens.

    Raises:
        UserError: the text does not allow so many tokens; the message names the largest possible vocabulary.
    """
    smallest = N_BYTES + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise UserError(f"vocab_size is {vocab_size}; the smallest is {smallest}.")
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(_limited(texts, max_chars), vocab_size - len(SPECIAL_TOKENS), pattern=SPLIT_PATTERN)
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    tokenizer = BPETokenizer(ranks)
    if tokenizer.vocab_size < vocab_size:
        raise UserError(
            f"vocab_size is {vocab_size}, but the text allows only {tokenizer.vocab_size} different tokens. "
            f"Set vocab_size to {tokenizer.vocab_size} or less, or train on more text."
        )
    return tokenizer


def _limited(texts: Iterable[str], max_chars: int | None) -> Iterator[str]:
    remaining = max_chars
    for text in texts:
        if remaining is not None:
            text = text[:remaining]
            remaining -= len(text)
        try:
            text.encode()
        except UnicodeEncodeError:
            text = without_surrogates(text)
        yield text
        if remaining == 0:
            return
