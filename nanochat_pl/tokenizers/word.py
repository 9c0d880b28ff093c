"""Words as tokens: whatever white space separates in one text, for small made-up languages."""

from collections.abc import Iterable, Sequence
from typing import Any

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.tokenizers.base import Tokenizer


class WordTokenizer(Tokenizer):
    """Id i is the i-th of `words`. A text comes back with a space behind each word.

    `encode` and `encode_batch` raise `UserError` at a word that is not among them.
    """

    kind = "word"

    def __init__(self, words: Sequence[str]):
        self.words = list(words)
        self.n_ordinary = len(self.words)
        self._ids = {word: i for i, word in enumerate(self.words)}
        self._bytes = [f"{word} ".encode() for word in self.words] + [name.encode() for name in self.special_tokens]

    def encode(self, text: str) -> list[int]:
        try:
            return [self._ids[word] for word in text.split()]
        except KeyError as error:
            word = error.args[0]
            raise UserError(
                f"The word {word!r} is not among the {self.n_ordinary} that this tokenizer was built from"
                f"{nearest(word, self.words)}"
            ) from error

    def _definition(self) -> dict[str, Any]:
        return {**super()._definition(), "words": self.words}


def train_word(texts: Iterable[str]) -> WordTokenizer:
    """A token for each word that occurs in `texts`, numbers by their value first.

    Raises:
        UserError: there is none.
    """
    words = {word for text in texts for word in text.split()}
    if not words:
        raise UserError("There is no text to build a word tokenizer from; check the data files.")
    return WordTokenizer(sorted(words, key=lambda word: (not word.isdecimal(), len(word), word)))
