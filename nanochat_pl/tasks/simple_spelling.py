"""Spelling words: what a token does not show, a model must learn word by word."""

from nanochat_pl.tasks.generated import Asked, GeneratedTask
from nanochat_pl.tasks.spelling import load_words, spelled
from nanochat_pl.tiny_world.split import Teller

_QUESTIONS = (
    "Spell the word {word}.",
    "Spell {word}.",
    "How do you spell {word}?",
    "How is {word} spelled?",
    "What are the letters of {word}?",
    "Write {word} letter by letter.",
)


class SimpleSpelling(GeneratedTask):
    """A word, and its letters one by one.

    Args:
        path: a list of words; see `load_words`, its errors too.
    """

    name = "simple_spelling"

    def __init__(self, split: str = "train", path: str | None = None):
        super().__init__(split)
        self._words = load_words(path)

    def ask(self, teller: Teller) -> Asked:
        word = teller.pick(self._words)
        return Asked(teller.pick(_QUESTIONS).format(word=word), f"Letter by letter: {spelled(word)}.")
