"""HumanEval, Python functions to complete (Chen et al., arXiv 2107.03374), run in the sandbox against their tests."""

import re
import secrets
from typing import ClassVar

from nanochat_pl.tasks.hub import HubTask
from nanochat_pl.tasks.task import Content, question_and_answer, text_said
from nanochat_pl.tokenizers.chat import Message
from nanochat_pl.tools.sandbox import check_sandbox, run_python

_CODE_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)
_TIMEOUT_SECONDS = 5.0


class HumanEval(HubTask):
    """The head of a function with its description is the question, the whole function the answer."""

    name, repo, config = "humaneval", "openai/openai_humaneval", "openai_humaneval"
    splits: ClassVar = {"test": "test"}

    def conversation(self, i: int) -> list[Message]:
        row = self.row(i)
        return question_and_answer(row["prompt"], row["prompt"] + row["canonical_solution"])

    def check_scored(self) -> None:
        check_sandbox()

    def evaluate(self, i: int, content: Content) -> bool:
        """Whether the answer's program passes the tests; raises what `run_python` raises."""
        row = self.row(i)
        # The program cannot guess what it must print last, so that ending early is no way to pass.
        passed = secrets.token_hex(16)
        program = program_of(text_said(content), row["prompt"], row["entry_point"])
        code = f"{program}\n\n{row['test']}\ncheck({row['entry_point']})\nprint('{passed}')\n"
        result = run_python(code, timeout_seconds=_TIMEOUT_SECONDS)
        return result.exit_code == 0 and result.stdout.endswith(f"{passed}\n")


def program_of(answer: str, prompt: str, entry_point: str) -> str:
    """The program that an answer means: its first block of code, or all of it.

    An answer that defines the function stands behind the question, whose own function has only its description for a
    body: what the question imports and defines besides is there. Any other answer continues the question.
    """
    block = _CODE_BLOCK.search(answer)
    code = block[1] if block else answer
    whole = re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", code, re.MULTILINE)
    return f"{prompt}\n\n{code}" if whole else prompt + code
