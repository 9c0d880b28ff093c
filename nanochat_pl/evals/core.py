"""CORE (DCLM, arXiv:2406.11794), as nanochat measures it: accuracy on 22 tasks, centred on what guessing gives.

The prompts, the few-shot examples and the score of each option are nanochat's (karpathy/nanochat 92d63d4), so are the
answers; `core_scoring` says what makes it quicker.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from nanochat_pl.evals.core_bundle import CoreTask, Example
from nanochat_pl.evals.core_prompts import build_questions, cropped
from nanochat_pl.evals.core_scoring import is_right, score_tokens
from nanochat_pl.tokenizers.base import Tokenizer

TASKS_OF_CORE = 22
QUESTIONS_AT_ONCE = 512
"""Tokenized and sorted by length together."""


@torch.inference_mode()
def answer_task(
    model: Any,
    tokenizer: Tokenizer,
    task: CoreTask,
    examples: Sequence[Example],
    indices: Sequence[int],
    watch: Callable[[], None] = lambda: None,
) -> list[bool]:
    """Whether a base model in evaluation mode gets the examples with these indices right, on the device where it is.

    Args:
        model: a `models.contract.LanguageModel` whose forward takes `at`; prompts longer than its context are read
            whole, as nanochat reads them, but for models that know no further position: these lose their beginnings.
        examples: all of the task's, from which the few-shot examples are drawn.
        watch: called before each `QUESTIONS_AT_ONCE`.
    """
    device = next(iter(model.parameters())).device
    right: list[bool] = []
    for start in range(0, len(indices), QUESTIONS_AT_ONCE):
        watch()
        part = indices[start : start + QUESTIONS_AT_ONCE]
        questions = build_questions(task, examples, part, tokenizer, torch.get_num_threads())
        if model.longest_text is not None:
            questions = [cropped(question, model.longest_text) for question in questions]
        right += map(is_right, questions, score_tokens(model, questions, device))
    return right
