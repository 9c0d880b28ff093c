"""Bytes as tokens: no training, any text, 265 ids."""

from collections.abc import Sequence

import numpy as np

from nanochat_pl.tokenizers.base import Tokenizer, unknown_id, without_surrogates


class ByteTokenizer(Tokenizer):
    """Ids 0-255 are the bytes of the UTF-8 text."""

    kind = "byte"
    n_ordinary = 256

    def __init__(self) -> None:
        self._bytes = [bytes([i]) for i in range(256)] + [name.encode() for name in self.special_tokens]

    def encode(self, text: str) -> list[int]:
        return list(_utf8(text))

    def encode_batch(self, texts: Sequence[str], num_threads: int = 1) -> list[np.ndarray]:
        return [np.frombuffer(_utf8(text), dtype=np.uint8).astype(self.dtype) for text in texts]

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        ids = [int(i) for i in ids]
        if any(not 0 <= i < self.vocab_size for i in ids):
            raise unknown_id(ids, self.vocab_size)
        return b"".join([self._bytes[i] for i in ids])

    def token_bytes(self) -> np.ndarray:
        lengths = np.zeros(self.vocab_size, dtype=np.int32)
        lengths[: self.n_ordinary] = 1
        return lengths


def _utf8(text: str) -> bytes:
    return (text if text.isascii() else without_surrogates(text)).encode()
