"""A task that rewards any model a little."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from nanochat_pl.data.prompts import PromptModule, PromptSpec
from nanochat_pl.tasks.specs import TaskSpec
from nanochat_pl.tasks.task import Content, Task, question_and_answer
from nanochat_pl.tokenizers.base import Tokenizer


class Vowels(Task):
    """Rewards an answer by its share of vowels; anything with a reward above 0 passes."""

    name = "vowels"

    def __init__(self, reward: Any = None):
        self._reward = reward

    def __len__(self) -> int:
        return 40

    def conversation(self, i: int) -> list[dict[str, Any]]:
        self._check_index(i)
        return question_and_answer(f"Say {i}", "aeiou")

    def evaluate(self, i: int, content: Content) -> bool:
        return self.reward(i, content) > 0

    def reward(self, i: int, content: Content) -> float:
        if self._reward is not None:
            return self._reward(content)
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        return sum(c in "aeiou" for c in text) / max(1, len(text))


class VowelsTaskSpec(TaskSpec):
    """The task, whatever is named."""

    def build(self) -> Task:
        return Vowels()


@dataclass(frozen=True)
class VowelsSpec(PromptSpec):
    """`data._target_=`: asks this task."""

    def build(self, tokenizer: Tokenizer, **how: Any) -> PromptModule:
        task = VowelsTaskSpec("tiny_sums")
        return PromptSpec.build(dataclasses.replace(self, task=task, val_task=task), tokenizer, **how)
