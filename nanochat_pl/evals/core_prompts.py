"""CORE's questions as token ids: few-shot prompts as in nanochat and DCLM (arXiv:2406.11794), and what is scored."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanochat_pl.evals.core_bundle import CoreTask, Example
from nanochat_pl.tokenizers.base import Tokenizer

FEWSHOT_SEED = 1234


@dataclass(frozen=True)
class Question:
    """One example, ready for a model.

    Attributes:
        rows: token ids of each option, or of the one text to be continued.
        spans: first and last + 1 of each row's scored tokens; the first is at least 1.
        gold: the right option; None where the scored tokens themselves are to be guessed.
    """

    rows: list[np.ndarray]
    spans: list[tuple[int, int]]
    gold: int | None


def fewshot_indices(index: int, count: int, num_fewshot: int) -> list[int]:
    """Which of `count` examples are shown before example `index`, in their order; never itself."""
    drawn = random.Random(FEWSHOT_SEED + index).sample(range(count - 1), num_fewshot)
    return [other + (other >= index) for other in drawn]


def render(task: CoreTask, example: Example, shots: Sequence[Example]) -> list[str]:
    """The texts of an example: one for each option; for language modeling without the continuation, and with it."""
    delimiter = task.delimiter
    match task.kind:
        case "multiple_choice":
            before = "".join(f"{shot['query']}{delimiter}{shot['choices'][shot['gold']]}\n\n" for shot in shots)
            return [f"{before}{example['query']}{delimiter}{choice}" for choice in example["choices"]]
        case "schema":
            before = "".join(
                f"{shot['context_options'][shot['gold']]}{delimiter}{shot['continuation']}\n\n" for shot in shots
            )
            return [f"{before}{context}{delimiter}{example['continuation']}" for context in example["context_options"]]
        case "language_modeling":
            before = "".join(f"{shot['context'].strip()}{delimiter}{shot['continuation']}\n\n" for shot in shots)
            prompt = f"{before}{example['context'].strip()}{delimiter}"
            # Without its last blank, which belongs to the continuation's first token.
            return [prompt.strip(), prompt + example["continuation"]]


def build_questions(
    task: CoreTask,
    examples: Sequence[Example],
    indices: Sequence[int],
    tokenizer: Tokenizer,
    num_threads: int = 1,
) -> list[Question]:
    """The questions of the examples with these indices.

    Args:
        examples: all of the task's, from which the few-shot examples are drawn.
        num_threads: of the tokenizer.
    """
    texts = []
    for index in indices:
        shots = [examples[other] for other in fewshot_indices(index, len(examples), task.num_fewshot)]
        texts.append(render(task, examples[index], shots))
    encoded = iter(tokenizer.encode_batch([text for group in texts for text in group], num_threads))
    questions = []
    for index, group in zip(indices, texts):
        rows = [np.concatenate(([tokenizer.bos_id], next(encoded))).astype(np.int64) for _ in group]
        questions.append(_question(task, examples[index], rows))
    return questions


def cropped(question: Question, longest: int) -> Question:
    """With rows of at most `longest` tokens, by leaving out what is furthest from the scored tokens."""
    gone = [max(0, len(row) - longest) for row in question.rows]
    rows = [row[count:] for row, count in zip(question.rows, gone)]
    spans = [(max(1, start - count), end - count) for (start, end), count in zip(question.spans, gone)]
    return Question(rows, spans, question.gold)


def common_prefix(rows: Sequence[np.ndarray]) -> int:
    """How many tokens all rows begin with."""
    shortest = min(map(len, rows))
    stacked = np.stack([row[:shortest] for row in rows])
    differing = np.flatnonzero((stacked != stacked[0]).any(axis=0))
    return int(differing[0]) if len(differing) else shortest


def _question(task: CoreTask, example: Example, rows: list[np.ndarray]) -> Question:
    match task.kind:
        case "multiple_choice":
            start = common_prefix(rows)
            return Question(rows, [(start, len(row)) for row in rows], example["gold"])
        case "schema":
            suffix = common_prefix([row[::-1] for row in rows])
            return Question(rows, [(max(1, len(row) - suffix), len(row)) for row in rows], example["gold"])
        case "language_modeling":
            # nanochat stops where the first is no prefix of the second; here the tokens that differ are scored.
            row = rows[1]
            return Question([row], [(min(common_prefix(rows), len(row) - 1), len(row))], None)
