"""Counting letters twice: by spelling the word out, and by a call of the tool that checks it."""

from typing import Any

from nanochat_pl.tasks.generated import Asked
from nanochat_pl.tasks.spelling import WordTask, counted_aloud
from nanochat_pl.tasks.task import Content, last_number, text_said
from nanochat_pl.tiny_world.split import Teller

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_QUESTIONS = (
    "How many {letter} are in {word}?",
    "How many {letter} are in the word {word}?",
    "How many times does {letter} occur in {word}?",
    "How often does the letter {letter} appear in {word}?",
    "Count the letter {letter} in {word}.",
    "What is the number of {letter} in {word}?",
    "How many of the letters of {word} are {letter}?",
)


class SpellingBee(WordTask):
    """A word and a letter that is mostly in it; right is an answer whose last number is the count."""

    name = "spelling_bee"

    def ask(self, teller: Teller) -> Asked:
        word = teller.pick(self._words)
        letter = teller.pick(word) if teller.random() < 0.9 else teller.pick(_ALPHABET)
        quote = teller.pick(("", "'", '"'))
        question = teller.pick(_QUESTIONS).format(letter=f"{quote}{letter}{quote}", word=f"{quote}{word}{quote}")
        return Asked(question, _counted_twice(word, letter))

    def evaluate(self, i: int, content: Content) -> bool:
        return last_number(text_said(content)) == last_number(text_said(self.asked(i).answer))


def _counted_twice(word: str, letter: str) -> list[dict[str, Any]]:
    count = str(word.count(letter))
    return [
        {"type": "text", "text": f"Letter by letter: {counted_aloud(word, letter)}.\nThat makes {count}. To check: "},
        {"type": "python", "text": f"'{word}'.count('{letter}')"},
        {"type": "python_output", "text": count},
        {"type": "text", "text": f"\nThe answer is {count}."},
    ]
