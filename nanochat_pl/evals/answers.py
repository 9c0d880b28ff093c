"""How many of a task's questions a chat model answers rightly.

Generative tasks by the engine, tool calls included; choices by the likeliest of the legal letters, as nanochat does.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from nanochat_pl.core.errors import UserError
from nanochat_pl.evals.scores import TaskScore
from nanochat_pl.inference.answer import AnswerStream, content_of
from nanochat_pl.inference.conversation import stop_ids
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.tasks.task import ChoiceTask, Content, Task
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.chat import fit_for_completion, render_for_completion
from nanochat_pl.tools.tool_calls import ToolCalls

log = logging.getLogger(__name__)

CHOICES_AT_ONCE = 32
ANSWERS_AT_ONCE = 128
CACHE_TOKENS = 1 << 16
"""Of all answers under way: a long context has fewer of them."""
CHOICE_BASELINE = 0.25
"""Accuracy of guessing where there are choices, for all of them, as in nanochat's chat_eval.py."""


def score_task(
    model: Any,
    tokenizer: Tokenizer,
    task: Task,
    indices: Sequence[int],
    *,
    max_new_tokens: int = 256,
    on_example: Callable[[int, bool], None] = lambda i, right: None,
) -> TaskScore:
    """Ask the questions `indices` of a task; greedy.

    Args:
        max_new_tokens: of an answer, at most.
        on_example: told of each example as it is scored.

    A question that does not fit into the context beside an answer is not answered rightly; choices are read whole.

    Raises:
        UserError: the task cannot be scored on this machine.
    """
    task.check_scored()
    if isinstance(task, ChoiceTask):
        scored, baseline = _choices(model, tokenizer, task, indices), CHOICE_BASELINE
    else:
        longest = min(max_new_tokens, model.config.sequence_len)  # beyond the context nobody comes to an end
        sampling = Sampling(longest, temperature=0.0, stop_ids=stop_ids(tokenizer, is_chat=True))
        scored, baseline = _generated(model, tokenizer, task, indices, sampling), 0.0
    correct = 0
    for i, right in scored:
        correct += right
        on_example(i, right)
    return TaskScore(task.name, correct, len(indices), baseline)


def answer_all(
    engine: Engine, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], sampling: Sampling
) -> Iterator[tuple[int, Content]]:
    """(number of the prompt, answer) as the answers come to their ends; the calculator runs within them."""
    streams: dict[int, tuple[int, AnswerStream, list[Any]]] = {}
    for n, prompt in enumerate(prompts):
        (request,) = engine.submit(prompt, sampling, [ToolCalls(tokenizer)])
        streams[request] = n, AnswerStream(tokenizer), []
    for token in engine.run():
        n, stream, parts = streams[token.request]
        if token.id is not None:
            parts += stream.feed(token.id, token.forced)
        if token.finish:
            yield n, content_of([*parts, *stream.end()])


def said(content: Content) -> str:
    """An answer on one line, its tool calls in brackets: `[12+30 = 42] That is 42.`"""
    if isinstance(content, str):
        return content
    forms = {"text": "{}", "python": "[{}", "python_output": " = {}] "}
    return "".join(forms[part["type"]].format(part["text"]) for part in content)


def _generated(
    model: Any, tokenizer: Tokenizer, task: Task, indices: Sequence[int], sampling: Sampling
) -> Iterator[tuple[int, bool]]:
    """Whether each question's answer is right, as the answers come."""
    context = model.config.sequence_len
    room = context - min(sampling.max_new_tokens, context // 2)
    prompts: dict[int, list[int]] = {}
    unread: dict[int, UserError] = {}
    for i in indices:
        try:
            prompts[i] = fit_for_completion(tokenizer, task.prompt(i), room)[0]
        except UserError as error:
            unread[i] = error
    if unread:
        log.warning(
            "%d of %d questions of %s can't be asked, and count as not answered rightly. The first: %s",
            len(unread), len(indices), task.name, next(iter(unread.values())),
        )  # fmt: skip
    yield from ((i, False) for i in unread)
    asked = list(prompts)
    engine = Engine(model, ANSWERS_AT_ONCE, CACHE_TOKENS, reuse=False)
    for n, content in answer_all(engine, tokenizer, list(prompts.values()), sampling):
        yield asked[n], task.evaluate(asked[n], content)


@torch.inference_mode()
def _choices(model: Any, tokenizer: Tokenizer, task: ChoiceTask, indices: Sequence[int]) -> Iterator[tuple[int, bool]]:
    """Each question's likeliest letter; questions of about the same length together."""
    device = next(model.parameters()).device
    prompts = {i: render_for_completion(tokenizer, task.prompt(i)) for i in indices}
    order = sorted(prompts, key=lambda i: len(prompts[i]))
    for start in range(0, len(order), CHOICES_AT_ONCE):
        group = order[start : start + CHOICES_AT_ONCE]
        longest = len(prompts[group[-1]])
        ids = torch.tensor([prompts[i] + [tokenizer.bos_id] * (longest - len(prompts[i])) for i in group])
        places = torch.tensor([row * longest + len(prompts[i]) - 1 for row, i in enumerate(group)])
        logits = model.forward(ids.to(device), at=places.to(device)).cpu()
        for row, i in zip(logits, group):
            letters = task.letters(i)
            tokens = [tokenizer.encode(letter)[0] for letter in letters]
            yield i, letters[int(row[tokens].argmax())] == task.answer(i)
