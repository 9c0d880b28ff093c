"""What every task is: numbered conversations, each of which ends with the right answer, and a score for another one."""

import functools
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, NoReturn

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.tokenizers.chat import Message

Content = str | Sequence[dict[str, Any]]
"""What an assistant says: a message's content, as text or as parts {"type": ..., "text": ...}."""

_SAMPLES = 64


class Task(ABC):
    """Conversations 0 to `len(task) - 1`; the same number is the same conversation in every process.

    `task[start:stop:step]` is a task of some of them. An index outside of the range raises IndexError.

    Attributes:
        name: as recipes and tables call it.
        kind: "choice" where the answer is one of a few letters (`ChoiceTask`), else "generative".
    """

    name: str
    kind: Literal["generative", "choice"] = "generative"

    @abstractmethod
    def __len__(self) -> int: ...

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes when the conversations do, and is the same in every process and on every machine.

        Of a task that knows no better, it is that of the number of them and of a sample.
        """
        sample = range(0, len(self), max(1, len(self) // _SAMPLES))
        return digest(self.name, len(self), [self.conversation(i) for i in sample])

    @abstractmethod
    def conversation(self, i: int) -> list[Message]:
        """The whole conversation, with the right answer as its last message: what SFT trains on."""

    def prompt(self, i: int) -> list[Message]:
        """The conversation up to its last message by the user: what a model is asked."""
        messages = self.conversation(i)
        last = max(n for n, message in enumerate(messages) if message["role"] == "user")
        return messages[: last + 1]

    def check_scored(self) -> None:  # noqa: B027 (most tasks need nothing for it)
        """See that answers can be scored on this machine, before a model is asked anything.

        Raises:
            UserError: these conversations have no right answers, or what the scoring needs is missing here.
        """

    @abstractmethod
    def evaluate(self, i: int, content: Content) -> bool:
        """Whether `content` answers `prompt(i)` rightly."""

    def reward(self, i: int, content: Content) -> float:
        """What RL pays for this answer; as long as a task knows no better, 1 for a right one and 0 for any other."""
        return float(self.evaluate(i, content))

    def __getitem__(self, indices: slice) -> "Task":
        if not isinstance(indices, slice):
            raise TypeError("a task is sliced, as in task[:100]; a single example is task.conversation(i)")
        chosen = range(len(self))[indices]
        return SlicedChoice(self, chosen) if isinstance(self, ChoiceTask) else Sliced(self, chosen)

    def _check_index(self, i: int) -> None:
        if not 0 <= i < len(self):
            raise IndexError(f"{self.name} has the examples 0 to {len(self) - 1}, not {i}")


class Choices(NamedTuple):
    """A question of multiple choice: the choices, the letter of each, and the right one's letter."""

    question: str
    choices: list[str]
    letters: list[str]
    answer: str


class ChoiceTask(Task):
    """Questions with a few answers, each behind a letter; the right answer is the letter alone."""

    kind = "choice"

    @abstractmethod
    def choices(self, i: int) -> Choices:
        """Question i."""

    def letters(self, i: int) -> list[str]:
        """The letters that are legal answers."""
        return self.choices(i).letters

    def answer(self, i: int) -> str:
        """The letter of the right one."""
        return self.choices(i).answer

    def conversation(self, i: int) -> list[Message]:
        """The question with its choices, in nanochat's wording, so that scores can be compared.

        The letter stands behind its choice, which small models bind better, and without a space before it: it is then
        the same token as the answer.
        """
        question, choices, letters, answer = self.choices(i)
        lines = "".join(f"- {choice}={letter}\n" for choice, letter in zip(choices, letters))
        ending = "Respond only with the letter of the correct answer."
        return question_and_answer(f"Multiple Choice question: {question}\n{lines}\n{ending}", answer)

    def evaluate(self, i: int, content: Content) -> bool:
        return text_said(content).strip() == self.answer(i)


class Sliced(Task):
    """Some of a task's examples, in the order of `indices`."""

    def __init__(self, task: Task, indices: range):
        self.task, self.indices = task, indices
        self.name, self.kind = task.name, task.kind

    def __len__(self) -> int:
        return len(self.indices)

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(self.task.fingerprint, self.indices.start, self.indices.stop, self.indices.step)

    def _of_whole(self, i: int) -> int:
        self._check_index(i)
        return self.indices[i]

    def conversation(self, i: int) -> list[Message]:
        return self.task.conversation(self._of_whole(i))

    def prompt(self, i: int) -> list[Message]:
        return self.task.prompt(self._of_whole(i))

    def check_scored(self) -> None:
        self.task.check_scored()

    def evaluate(self, i: int, content: Content) -> bool:
        return self.task.evaluate(self._of_whole(i), content)

    def reward(self, i: int, content: Content) -> float:
        return self.task.reward(self._of_whole(i), content)


class SlicedChoice(Sliced, ChoiceTask):
    """Some of a choice task's examples."""

    task: ChoiceTask

    def choices(self, i: int) -> Choices:
        return self.task.choices(self._of_whole(i))


class UnscoredTask(Task):
    """Conversations to learn from, without one right answer: they can be neither evaluated nor rewarded."""

    def check_scored(self) -> NoReturn:
        raise UserError(
            f"The conversations of the task {self.name} have no right answers: a model can be trained on them with "
            "stage=mid or stage=sft, but neither evaluated on them nor rewarded for them."
        )

    def evaluate(self, i: int, content: Content) -> bool:
        self.check_scored()


def check_split(name: str, split: str, legal: Sequence[str]) -> None:
    """Raise `UserError` where a task has no such split."""
    if split not in legal:
        raise UserError(f"The task {name} has no split '{split}'{nearest(split, legal)} It has: {', '.join(legal)}.")


def digest(*parts: Any) -> str:
    """A checksum of what JSON can say."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def text_said(content: Content) -> str:
    """The text of an answer, without tool calls and their outputs."""
    return content if isinstance(content, str) else "".join(p["text"] for p in content if p["type"] == "text")


_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def last_number(text: str) -> float | None:
    """The last number in a text (commas between thousands may stand in it); None where there is none."""
    numbers = _NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def question_and_answer(question: str, content: Content) -> list[Message]:
    """A conversation of one question and its answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": content}]
