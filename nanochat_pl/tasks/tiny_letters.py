"""How often a letter is in a word, counted by spelling the word out: a token of several letters shows none of them."""

from nanochat_pl.tasks.generated import Asked, GeneratedTask
from nanochat_pl.tasks.spelling import counted_aloud
from nanochat_pl.tasks.task import Content, last_number, text_said
from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.words import VOCABULARY

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_QUESTIONS = (
    "How many times is the letter {letter} in {word}?",
    "How often does {letter} occur in {word}?",
    "Count the letter {letter} in {word}.",
)


class TinyLetters(GeneratedTask):
    """Words of the tiny world, and a letter that is mostly in them."""

    name = "tiny_letters"

    def ask(self, teller: Teller) -> Asked:
        word = teller.pick(VOCABULARY)
        letter = teller.pick(word) if teller.random() < 0.8 else teller.pick(_ALPHABET)
        question = teller.pick(_QUESTIONS).format(letter=letter, word=word)
        return Asked(question, f"Letter by letter: {counted_aloud(word, letter)}. The answer is {word.count(letter)}.")

    def evaluate(self, i: int, content: Content) -> bool:
        return last_number(text_said(content)) == last_number(text_said(self.asked(i).answer))
