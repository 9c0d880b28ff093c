"""Byte pair encoding: trained by rustbpe, used through tiktoken."""

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import rustbpe
import tiktoken

from nanochat_pl.core.errors import UserError
from nanochat_pl.tokenizers.base import BOS, SPECIAL_TOKENS, Tokenizer, unknown_id, without_surrogates

SPLIT_PATTERN = (
    r"""(?:'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n])"""
    r"""|\s+(?!\S)|\s+"""
)
"""nanochat's splits: GPT-4's with at most two digits in a token, which suits small vocabularies.

The published pattern has possessive quantifiers and no group. The matches are the same either way (a quantified
class and what follows it are disjoint), but this form lets the regex engine run all but the lookahead as one automaton,
about 1.6 times as fast.
"""

N_BYTES = 256
MERGES_FILE = "merges.tiktoken"

LONGEST_BLANK_CHARS = 500_000
"""Longer rows of white space are cut: the regex engine's stack, and with it the process, ends at a million."""
_LONG_BLANK = re.compile(rf"(\s{{{LONGEST_BLANK_CHARS}}})")


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

    def __reduce__(self) -> tuple[Any, ...]:
        return BPETokenizer, (self.ranks, self.pattern)

    def encode(self, text: str) -> list[int]:
        if len(text) <= LONGEST_BLANK_CHARS:
            return self._encoding.encode_ordinary(text)
        return [i for part in _LONG_BLANK.split(text) for i in self._encoding.encode_ordinary(part)]

    def encode_batch(self, texts: Sequence[str], num_threads: int = 1) -> list[np.ndarray]:
        if any(BOS in text or len(text) > LONGEST_BLANK_CHARS for text in texts):
            return [np.array(self.encode(text), dtype=self.dtype) for text in texts]
        chunks = _chunks(texts, num_threads)
        if len(chunks) < 2:
            parts = [self._encode_joined(chunk) for chunk in chunks]
        else:
            with ThreadPoolExecutor(num_threads) as pool:
                parts = list(pool.map(self._encode_joined, chunks))
        return [ids for part in parts for ids in part]

    def _encode_joined(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Texts joined by BOS in one call to tiktoken, which holds no lock meanwhile; none of them contains BOS."""
        joined = BOS.join(texts)
        try:
            flat = self._encoding.encode_to_numpy(joined, allowed_special={BOS}, disallowed_special=())
        except UnicodeEncodeError:
            joined = without_surrogates(joined)
            flat = self._encoding.encode_to_numpy(joined, allowed_special={BOS}, disallowed_special=())
        flat = flat.astype(self.dtype)
        ends = [*np.flatnonzero(flat == self.bos_id).tolist(), len(flat)]
        starts = [0, *(end + 1 for end in ends[:-1])]
        return [flat[start:end] for start, end in zip(starts, ends)]

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
        try:
            return self._encoding.decode_bytes(ids)
        except (KeyError, OverflowError) as error:
            raise unknown_id(ids, self.vocab_size) from error

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
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(_prefix(texts, max_chars), vocab_size - len(SPECIAL_TOKENS), pattern=SPLIT_PATTERN)
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    tokenizer = BPETokenizer(ranks)
    if tokenizer.vocab_size < vocab_size:
        raise UserError(
            f"vocab_size is {vocab_size}, but the text allows only {tokenizer.vocab_size} different tokens. "
            f"Set vocab_size to {tokenizer.vocab_size} or less, or train on more text."
        )
    return tokenizer


def _prefix(texts: Iterable[str], max_chars: int | None) -> Iterator[str]:
    remaining = max_chars
    for text in texts:
        if remaining is not None:
            text = text[:remaining]
            remaining -= len(text)
        yield from _LONG_BLANK.split(text if text.isascii() else without_surrogates(text))
        if remaining == 0:
            return


def _chunks(texts: Sequence[str], count: int) -> list[Sequence[str]]:
    """`texts` in order, cut into at most `count` parts of about as many characters each."""
    if count < 2 or len(texts) < 2:
        return [texts] if texts else []
    share = sum(map(len, texts)) / count
    chunks: list[Sequence[str]] = []
    start = filled = 0
    for i, text in enumerate(texts):
        filled += len(text)
        if filled >= share * (len(chunks) + 1) - 1e-6:
            chunks.append(texts[start : i + 1])
            start = i + 1
    return [*chunks, texts[start:]] if start < len(texts) else chunks
