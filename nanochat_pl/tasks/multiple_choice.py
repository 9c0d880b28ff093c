"""Multiple choice as nanochat puts it."""

from abc import abstractmethod
from collections.abc import Sequence

from nanochat_pl.tasks.task import ChoiceTask, question_and_answer
from nanochat_pl.tokenizers.chat import Message


class MultipleChoice(ChoiceTask):
    """Questions with their choices in the text."""

    @abstractmethod
    def example(self, i: int) -> tuple[str, list[str], list[str], str]:
        """The question, the choices, their letters, and the right one's letter."""

    def conversation(self, i: int) -> list[Message]:
        question, choices, letters, right = self.example(i)
        return question_and_answer(render_choices(question, choices, letters), right)

    def letters(self, i: int) -> list[str]:
        return self.example(i)[2]

    def answer(self, i: int) -> str:
        return self.example(i)[3]


def render_choices(question: str, choices: Sequence[str], letters: Sequence[str]) -> str:
    """The question with its choices, in nanochat's wording, so that scores can be compared.

    The letter stands behind its choice, which small models bind better, and without a space before it: it is then the
    same token as the answer.
    """
    lines = "".join(f"- {choice}={letter}\n" for choice, letter in zip(choices, letters))
    return f"Multiple Choice question: {question}\n{lines}\nRespond only with the letter of the correct answer."
