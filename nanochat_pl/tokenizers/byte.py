"""Bytes as tokens: no training, any text, 265 ids."""

from collections.abc import Sequence

import numpy as np

from nanochat_pl.tokenizers.base import Tokenizer, without_surrogates


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


def _utf8(text: str) -> bytes:
    return (text if text.isascii() else without_surrogates(text)).encode()


def byte_characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary, as GPT-2 chose them."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
