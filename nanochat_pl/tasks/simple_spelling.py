"""Spelling words: what a token does not show, a model must learn word by word."""

from nanochat_pl.tasks.generated import Asked
from nanochat_pl.tasks.spelling import WordTask, spelled
from nanochat_pl.tiny_world.split import Teller

_QUESTIONS = (
    "Spell the word {word}.",
    "Spell {word}.",
    "How do you spell {word}?",
    "How is {word} spelled?",
    "What are the letters of {word}?",
    "Write {word} letter by letter.",
)


class SimpleSpelling(WordTask):
    """A word, and its letters one by one."""

    name = "simple_spelling"

    def ask(self, teller: Teller) -> Asked:
        word = teller.pick(self._words)
        return Asked(teller.pick(_QUESTIONS).format(word=word), f"Letter by letter: {spelled(word)}.")
