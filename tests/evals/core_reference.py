"""CORE one example and one option at a time: whole texts, full logits, nothing shared; written from the definition."""

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Answer:
    """What the plain way gives for one example: each option's scored losses, or which tokens were guessed."""

    right: bool
    scores: list[torch.Tensor]


def shown(examples, index, num_fewshot):
    others = [i for i in range(len(examples)) if i != index]
    return [examples[i] for i in random.Random(1234 + index).sample(others, num_fewshot)]


def plain_answer(model, tokenizer, task, examples, index) -> Answer:
    example, shots = examples[index], shown(examples, index, task.num_fewshot)
    if task.kind == "multiple_choice":
        solved = [shot["query"] + task.delimiter + shot["choices"][shot["gold"]] for shot in shots]
        asked = [example["query"] + task.delimiter + choice for choice in example["choices"]]
    elif task.kind == "schema":
        solved = [shot["context_options"][shot["gold"]] + task.delimiter + shot["continuation"] for shot in shots]
        asked = [context + task.delimiter + example["continuation"] for context in example["context_options"]]
    else:
        solved = [shot["context"].strip() + task.delimiter + shot["continuation"] for shot in shots]
        prompt = example["context"].strip() + task.delimiter
        asked = [prompt.rstrip(), prompt + example["continuation"]]
    texts = ["\n\n".join([*solved, one]) for one in asked]
    rows = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]

    if task.kind == "language_modeling":
        scored = [len(rows[1]) - len(rows[0])]
        assert rows[1][: len(rows[0])] == rows[0] and scored[0] > 0
        rows = rows[1:]
    elif task.kind == "multiple_choice":
        scored = [len(row) - same(rows) for row in rows]
    else:
        scored = [same([row[::-1] for row in rows])] * len(rows)

    scores = []
    for row, count in zip(rows, scored):
        ids = torch.tensor(row)
        logits = model(ids[None])[0, :-1]
        wanted = ids[1:]
        if task.kind == "language_modeling":
            per_token = logits.argmax(-1) == wanted
        else:
            per_token = F.cross_entropy(logits, wanted, reduction="none")
        scores.append(per_token[len(per_token) - count :])
    if task.kind == "language_modeling":
        return Answer(bool(scores[0].all()), scores)
    means = [losses.mean().item() for losses in scores]
    return Answer(means.index(min(means)) == example["gold"], scores)


def same(rows) -> int:
    """Tokens that all rows begin with."""
    count = 0
    for tokens in zip(*rows):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count
