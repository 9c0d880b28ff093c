"""CORE (DCLM, arXiv:2406.11794), as nanochat measures it: accuracy on 22 tasks, centred on what guessing gives.

The prompts, the few-shot examples and the score of each option are nanochat's (karpathy/nanochat 92d63d4), so are the
answers; `core_scoring` says what makes it quicker.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat_pl.core.errors import UserError
from nanochat_pl.evals.core_bundle import CoreTask, Example, load_core_tasks
from nanochat_pl.evals.core_prompts import build_questions
from nanochat_pl.evals.core_scoring import is_right, score_tokens
from nanochat_pl.tokenizers.base import Tokenizer

QUESTIONS_AT_ONCE = 512
"""Tokenized and sorted by length together."""


@dataclass(frozen=True)
class TaskScore:
    """How many of a task's examples were answered rightly.

    Attributes:
        baseline: accuracy of guessing, 0 to 1.
    """

    label: str
    correct: int
    count: int
    baseline: float

    @property
    def accuracy(self) -> float:
        return self.correct / self.count

    @property
    def standard_error(self) -> float:
        """Of the accuracy, as a binomial share."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.count)

    @property
    def centered(self) -> float:
        """The accuracy moved and stretched so that guessing is 0 and everything right is 1."""
        return (self.accuracy - self.baseline) / (1 - self.baseline)

    @property
    def centered_standard_error(self) -> float:
        return self.standard_error / (1 - self.baseline)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        names = ("label", "accuracy", "standard_error", "centered", "centered_standard_error")
        return {name: getattr(self, name) for name in (*names, "correct", "count", "baseline")}


@dataclass(frozen=True)
class CoreScore:
    """The scores of all tasks that were there."""

    tasks: tuple[TaskScore, ...]

    @property
    def core(self) -> float:
        """The CORE metric: the mean of the centred accuracies."""
        return sum(task.centered for task in self.tasks) / len(self.tasks)

    @property
    def standard_error(self) -> float:
        """Of the CORE metric; the tasks err independently."""
        return math.hypot(*(task.centered_standard_error for task in self.tasks)) / len(self.tasks)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "core": self.core,
            "standard_error": self.standard_error,
            "tasks": [task.as_dict() for task in self.tasks],
        }


@torch.inference_mode()
def evaluate_core(
    model: Any,
    tokenizer: Tokenizer,
    bundle: Path,
    *,
    max_per_task: int | None = None,
    max_tokens: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
    on_task: Callable[[str], None] | None = None,
) -> CoreScore:
    """The CORE score of a base model in evaluation mode, on the device where it is.

    Args:
        model: a `models.contract.LanguageModel` whose forward takes `at`.
        bundle: the folder of the tasks; `core_bundle()` finds or fetches it.
        max_per_task: examples of each task at most; None: all.
        max_tokens: longer prompts lose tokens on their left, for models that can't read more; None: none is cut, as
            nanochat reads its own models' prompts.
        rank, world_size: this process takes every `world_size`-th example, from the `rank`-th on.
        sum_over_ranks: sums an int64 tensor, (tasks, 2), over all processes; called once, after the last task.
        on_task: is told each task's name before it begins.

    Raises:
        UserError: the bundle or an example in it is not in order, a limit is too low for its few-shot prompts.
    """
    for name, value, least in (("max_per_task", max_per_task, 1), ("max_tokens", max_tokens, 2)):
        if value is not None and value < least:
            raise UserError(f"{name} is {value}, but it must be at least {least} (or unset: no limit).")
    tasks = load_core_tasks(bundle)
    device = next(iter(model.parameters())).device
    counts = torch.zeros(len(tasks), 2, dtype=torch.int64, device=device)
    for task, row in zip(tasks, counts):
        if on_task is not None:
            on_task(task.label)
        examples = task.examples(max_per_task)
        indices = range(rank, len(examples), world_size)
        right = answer_task(model, tokenizer, task, examples, indices, max_tokens)
        row.copy_(torch.tensor([sum(right), len(right)]))
    if sum_over_ranks is not None:
        counts = sum_over_ranks(counts)
    return CoreScore(
        tuple(
            TaskScore(task.label, correct, count, task.baseline)
            for task, (correct, count) in zip(tasks, counts.tolist())
        )
    )


@torch.inference_mode()
def answer_task(
    model: Any,
    tokenizer: Tokenizer,
    task: CoreTask,
    examples: Sequence[Example],
    indices: Sequence[int],
    max_tokens: int | None = None,
) -> list[bool]:
    """Whether the model gets the examples with these indices right.

    Args:
        examples: all of the task's, from which the few-shot examples are drawn.
        max_tokens: longer prompts lose tokens on their left; None: none is cut.
    """
    device = next(iter(model.parameters())).device
    right: list[bool] = []
    for start in range(0, len(indices), QUESTIONS_AT_ONCE):
        part = indices[start : start + QUESTIONS_AT_ONCE]
        questions = build_questions(task, examples, part, tokenizer, max_tokens, torch.get_num_threads())
        right += map(is_right, questions, score_tokens(model, questions, device))
    return right
