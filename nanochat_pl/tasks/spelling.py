"""The words that are spelled, and how; shared by the tasks of letters."""

import functools
from pathlib import Path

from nanochat_pl.core.errors import UserError
from nanochat_pl.tasks.generated import GeneratedTask
from nanochat_pl.tasks.task import digest
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


def spelled(word: str) -> str:
    """`c a r r o t`."""
    return " ".join(word)


def counted_aloud(word: str, letter: str) -> str:
    """`c a r1 r2 o t`: the letters, the one that is counted with its count."""
    said, count = [], 0
    for each in word:
        count += each == letter
        said.append(f"{each}{count}" if each == letter else each)
    return " ".join(said)
