"""GSM8K, word problems for schools (Cobbe et al., arXiv 2110.14168), with the calculator as a tool."""

import re
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar

from nanochat_pl.tasks.hub import HubTask
from nanochat_pl.tasks.task import Content, question_and_answer, text_said
from nanochat_pl.tokenizers.chat import Message

_ANNOTATION = re.compile(r"<<([^<>]*)>>")
_FINAL_NUMBER = re.compile(r"#### ?(-?[0-9.,]+)")
"""As in the paper's code (github.com/openai/grade-school-math, dataset.py); the space may be missing."""


class GSM8K(HubTask):
    """Problems with worked solutions, whose calculations are calls of the calculator."""

    name, repo, config = "gsm8k", "openai/gsm8k", "main"
    splits: ClassVar = {"train": "train", "test": "test"}

    def conversation(self, i: int) -> list[Message]:
        row = self.row(i)
        return question_and_answer(row["question"], solution_parts(row["answer"]))

    def evaluate(self, i: int, content: Content) -> bool:
        """Whether the first number behind `####` is the solution's."""
        right, said = final_number(self.row(i)["answer"]), final_number(text_said(content))
        return said is not None and said == right


def solution_parts(solution: str) -> list[dict[str, Any]]:
    """A solution with its annotations `<<48/2=24>>` as calls of the tool with their outputs, the rest as text."""
    parts: list[dict[str, Any]] = []
    for n, piece in enumerate(_ANNOTATION.split(solution)):
        if n % 2 == 0:
            parts += [{"type": "text", "text": piece}] if piece else []
        elif piece:
            expression, _, result = piece.rpartition("=")
            parts.append({"type": "python", "text": expression or result})
            parts += [{"type": "python_output", "text": result}] if expression else []
    return parts


def final_number(text: str) -> Decimal | None:
    """The number behind the first `####`, commas between thousands left out; None where there is none."""
    match = _FINAL_NUMBER.search(text)
    try:
        return Decimal(match[1].replace(",", "").rstrip(".")) if match else None
    except InvalidOperation:
        return None
