"""Tasks without files: questions made on the spot, whose whole text decides whether they are held out."""

import itertools
from abc import abstractmethod
from typing import Any, NamedTuple

from nanochat_pl.tasks.task import Content, Task, check_split, last_number, question_and_answer, text_said
from nanochat_pl.tiny_world.split import Split, Teller
from nanochat_pl.tokenizers.chat import Message

N_QUESTIONS = 1 << 16
"""Of every task that makes its questions; they begin to repeat where there are fewer different ones."""
_ATTEMPTS = 1024


class Asked(NamedTuple):
    """A question, and how it is answered."""

    question: str
    answer: str | list[dict[str, Any]]


def world_split(name: str, split: str) -> Split:
    """What the tiny world calls the split of a task: its held-out texts are the tests.

    Raises:
        UserError: neither train nor test.
    """
    check_split(name, split, ("train", "test"))
    return "train" if split == "train" else "val"


def says_the_same(content: Content, answer: Content) -> bool:
    """Whether two answers have the same text, but for case, spaces and the full stop."""
    return _plain(content) == _plain(answer)


def _plain(content: Content) -> str:
    return " ".join(text_said(content).lower().split()).rstrip(".!")


def same_number(content: Content, answer: Content) -> bool:
    """Whether two answers end with the same number, whatever stands before and behind it."""
    return last_number(text_said(content)) == last_number(text_said(answer))


class GeneratedTask(Task):
    """Questions that a seed makes: example i is the same question wherever it is asked.

    No question of the split `test` occurs in `train`: a checksum of its text decides (`tiny_world.split`).

    Attributes:
        is_right: whether what is said is as right as the answer.
    """

    is_right = staticmethod(says_the_same)

    def __init__(self, split: str = "train"):
        self._split = world_split(self.name, split)

    def __len__(self) -> int:
        return N_QUESTIONS

    @abstractmethod
    def ask(self, teller: Teller) -> Asked:
        """Some question of either split."""

    def asked(self, i: int) -> Asked:
        """Question i of this split."""
        self._check_index(i)
        for attempt in range(_ATTEMPTS):
            teller = Teller(((i * _ATTEMPTS + attempt) << 1) | (self._split == "val"), self._split)
            asked = self.ask(teller)
            if teller.fits(asked.question):
                return asked
        raise AssertionError(f"no question {i} of {self.name}")

    def conversation(self, i: int) -> list[Message]:
        return question_and_answer(*self.asked(i))

    def evaluate(self, i: int, content: Content) -> bool:
        return self.is_right(content, self.asked(i).answer)


def calculated(expression: str, result: str, text: str) -> list[dict[str, Any]]:
    """An answer that begins with a call of the calculator."""
    return [
        {"type": "python", "text": expression},
        {"type": "python_output", "text": result},
        {"type": "text", "text": text},
    ]


def calls_tool(content: Content) -> bool:
    """Whether a tool was called and has answered: an output directly behind a call."""
    kinds = [] if isinstance(content, str) else [part["type"] for part in content]
    return ("python", "python_output") in itertools.pairwise(kinds)
