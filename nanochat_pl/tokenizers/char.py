"""Characters as tokens: the characters of one text, such as the 65 of tinyshakespeare."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nanochat_pl.core.errors import UserError
from nanochat_pl.tokenizers.base import Tokenizer, without_surrogates

UNKNOWN = np.iinfo(np.uint32).max


class CharTokenizer(Tokenizer):
    """Id i is the i-th of `characters` (sorted by code point, each once).

    `encode` and `encode_batch` raise `UserError` at a character that is not among them, with its place.
    """

    kind = "char"

    def __init__(self, characters: str):
        self.characters = characters
        self.n_ordinary = len(characters)
        self._bytes = [c.encode() for c in characters] + [name.encode() for name in self.special_tokens]
        self._table = np.full(max(map(ord, characters), default=0) + 2, UNKNOWN, dtype=np.uint32)
        self._table[[ord(c) for c in characters]] = np.arange(len(characters))

    def encode(self, text: str) -> list[int]:
        return self._encode(text).tolist()

    def encode_batch(self, texts: Sequence[str], num_threads: int = 1) -> list[np.ndarray]:
        return [self._encode(text).astype(self.dtype) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        if not text.isascii():
            text = without_surrogates(text)
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        ids = self._table[np.minimum(codes, len(self._table) - 1)]
        unknown = np.flatnonzero(ids == UNKNOWN)
        if len(unknown):
            raise self._unknown_character(text, int(unknown[0]))
        return ids

    def _unknown_character(self, text: str, position: int) -> UserError:
        line = text.count("\n", 0, position) + 1
        column = position - text.rfind("\n", 0, position)
        around = text[max(0, position - 20) : position + 20]
        return UserError(
            f"The character {text[position]!r} (U+{ord(text[position]):04X}, line {line}, column {column} of the text, "
            f"in {around!r}) is not among the {self.n_ordinary} characters that this tokenizer was built from. "
            "Remove it, or use the byte or BPE tokenizer, which take any text."
        )

    def _definition(self) -> dict[str, Any]:
        return {**super()._definition(), "characters": self.characters}


def train_char(texts: Iterable[str]) -> CharTokenizer:
    """A token for each character that occurs in `texts`.

    Raises:
        UserError: there is no text.
    """
    characters: set[str] = set()
    for text in texts:
        characters.update(without_surrogates(text))
    if not characters:
        raise UserError("There is no text to build a character tokenizer from; check the data files.")
    return CharTokenizer("".join(sorted(characters)))
