"""Tasks of letters: what a token does not show, a model must learn word by word."""

import functools
from pathlib import Path
from string import ascii_lowercase

from nanochat_pl.core.errors import UserError
from nanochat_pl.tasks.generated import Asked, GeneratedTask, same_number
from nanochat_pl.tasks.task import digest
from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.tables import WORDINGS
from nanochat_pl.tiny_world.words import VOCABULARY


class WordTask(GeneratedTask):
    """Questions about words.

    Args:
        path: a list of words; see `load_words`, its errors too.
    """

    def __init__(self, split: str = "train", path: str | None = None):
        super().__init__(split)
        self._words = load_words(path)

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(super().fingerprint, self._words)


class SimpleSpelling(WordTask):
    """A word, and its letters one by one."""

    name = "simple_spelling"

    def ask(self, teller: Teller) -> Asked:
        word = teller.pick(self._words)
        return Asked(
            teller.pick(WORDINGS["spelling"][self.name]).format(word=word), f"Letter by letter: {' '.join(word)}."
        )


class SpellingBee(WordTask):
    """A word and a letter that is mostly in it, counted twice: by spelling, and by a call of the tool that checks it.

    Right is an answer whose last number is the count.
    """

    name = "spelling_bee"
    is_right = staticmethod(same_number)

    def ask(self, teller: Teller) -> Asked:
        word = teller.pick(self._words)
        letter = teller.pick(word) if teller.random() < 0.9 else teller.pick(ascii_lowercase)
        quote = teller.pick(("", "'", '"'))
        question = teller.pick(WORDINGS["spelling"][self.name]).format(
            letter=f"{quote}{letter}{quote}", word=f"{quote}{word}{quote}"
        )
        count, letters = str(word.count(letter)), counted_aloud(word, letter)
        answer = [
            {"type": "text", "text": f"Letter by letter: {letters}.\nThat makes {count}. To check: "},
            {"type": "python", "text": f"'{word}'.count('{letter}')"},
            {"type": "python_output", "text": count},
            {"type": "text", "text": f"\nThe answer is {count}."},
        ]
        return Asked(question, answer)


class TinyLetters(GeneratedTask):
    """Words of the tiny world, and how often a letter that is mostly in them is, counted by spelling."""

    name = "tiny_letters"
    is_right = staticmethod(same_number)

    def ask(self, teller: Teller) -> Asked:
        word = teller.pick(VOCABULARY)
        letter = teller.pick(word) if teller.random() < 0.8 else teller.pick(ascii_lowercase)
        question = teller.pick(WORDINGS["spelling"][self.name]).format(letter=letter, word=word)
        return Asked(question, f"Letter by letter: {counted_aloud(word, letter)}. The answer is {word.count(letter)}.")


def load_words(path: str | None = None) -> tuple[str, ...]:
    """The tiny world's words, and those of a local list where one is given.

    Args:
        path: a text file with a word a line; what is not of letters alone is left out, capitals are made small.

    Raises:
        UserError: the file is missing, is not UTF-8 text or has no word.
    """
    if path is None:
        return VOCABULARY
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The list of words {path} cannot be read: {error}. Give a text file with a word a line."
        ) from error
    words = [word for line in lines if (word := line.strip().lower()).isalpha()]
    if not words:
        raise UserError(f"The list of words {path} has no word of letters alone. Give a text file with a word a line.")
    return tuple(dict.fromkeys((*VOCABULARY, *words)))


def counted_aloud(word: str, letter: str) -> str:
    """`c a r1 r2 o t`: the letters, the one that is counted with its count."""
    return " ".join(f"{each}{word[: n + 1].count(each)}" if each == letter else each for n, each in enumerate(word))
