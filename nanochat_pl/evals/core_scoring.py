"""The model's part of CORE: scores of questions in few forward passes.

What the options of a question share is read once; the head is computed where a token is scored, and nowhere else.
Questions of about the same length share a pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_pl.evals.core_prompts import Question, common_prefix

PASS_TOKENS = {"cpu": 64}
ACCELERATOR_PASS_TOKENS = 4096
"""A pass of its own costs about as much as reading so many more tokens in another: the launches, and products too small
to fill the device."""

LARGEST_PASS_TOKENS = {"cpu": 4096}
ACCELERATOR_LARGEST_PASS_TOKENS = 65536
"""Tokens of a pass at most, for the memory of its activations; a question alone may have more."""


def score_tokens(model: Any, questions: Sequence[Question], device: torch.device) -> list[list[Tensor]]:
    """Of each row of each question the scored tokens' losses, or, where there is one text, whether each was guessed.

    All of the questions have options, or none has.
    """
    scores: list[list[Tensor]] = [[] for _ in questions]
    for group in _groups(questions, device):
        for index, per_row in zip(group.indices, _score_group(model, questions, group, device)):
            scores[index] = per_row
    return scores


def is_right(question: Question, scores: Sequence[Tensor]) -> bool:
    """Whether the right option's tokens have the lowest mean loss (the first of equals), or all tokens were guessed."""
    if question.gold is None:
        return bool(scores[0].all())
    losses = [row.mean().item() for row in scores]  # NaN where no token is scored: one option begins with another
    return min(range(len(losses)), key=losses.__getitem__) == question.gold


@dataclass
class _Group:
    """Questions of one pass.

    Attributes:
        shared: tokens at the beginning of each question that all its rows have in common and that are read once; the
            shortest question's, so that all rows go on at the same place.
        branches: rows of a question at most.
        length: of the longest row, without its last token, which predicts nothing.
    """

    shared: int
    branches: int = 1
    length: int = 0
    indices: list[int] = field(default_factory=list)

    def tokens(self, also: "_Group | None" = None) -> int:
        """That are read, padding included; with the questions of another group, if it is given."""
        groups = [self] if also is None else [self, also]
        shared, count = min(group.shared for group in groups), sum(len(group.indices) for group in groups)
        branches, length = (max(getattr(group, name) for group in groups) for name in ("branches", "length"))
        return count * (shared + branches * (length - shared))

    def add(self, other: "_Group") -> None:
        self.shared = min(self.shared, other.shared)
        self.branches, self.length = max(self.branches, other.branches), max(self.length, other.length)
        self.indices += other.indices


def _groups(questions: Sequence[Question], device: torch.device) -> Iterator[_Group]:
    """All questions, the longest first; neighbours together where that costs less than a pass of their own."""
    pass_tokens = PASS_TOKENS.get(device.type, ACCELERATOR_PASS_TOKENS)
    largest = LARGEST_PASS_TOKENS.get(device.type, ACCELERATOR_LARGEST_PASS_TOKENS)
    alone = [_alone(index, question) for index, question in enumerate(questions)]
    alone.sort(key=lambda group: (group.branches > 1, group.shared, group.length), reverse=True)
    current: _Group | None = None
    for group in alone:
        if current is not None:
            together = current.tokens(group)
            if together <= min(largest, current.tokens() + group.tokens() + pass_tokens):
                current.add(group)
                continue
            yield current
        current = group
    if current is not None:
        yield current


def _alone(index: int, question: Question) -> _Group:
    length = max(map(len, question.rows)) - 1
    shared = 0
    if len(question.rows) > 1:  # up to the token that predicts the first scored one; no row is shared to its end
        shared = min(common_prefix(question.rows), length - 1, min(start for start, _ in question.spans) - 1)
    return _Group(shared, len(question.rows), length, [index])


def _score_group(model: Any, questions: Sequence[Question], group: _Group, device: torch.device) -> list[list[Tensor]]:
    questions = [questions[index] for index in group.indices]
    K, shared, width = group.branches, group.shared, group.length - group.shared
    ids = np.zeros((len(questions), K, width), dtype=np.int64)
    at, targets = [], []
    for index, question in enumerate(questions):
        for branch, (row, (start, end)) in enumerate(zip(question.rows, question.spans)):
            ids[index, branch, : len(row) - 1 - shared] = row[shared:-1]
            first = (index * K + branch) * width - shared - 1
            at.append(np.arange(first + start, first + end))
            targets.append(row[start:end])
    prefixes = np.stack([question.rows[0][:shared] for question in questions])
    logits = _logits(model, *(torch.from_numpy(x).to(device) for x in (prefixes, ids, np.concatenate(at))))
    wanted = torch.from_numpy(np.concatenate(targets)).to(device)
    if questions[0].gold is None:
        per_token = (logits.argmax(dim=-1) == wanted).cpu()
    else:
        per_token = F.cross_entropy(logits, wanted, reduction="none").cpu()
    per_row = iter(per_token.split([len(row) for row in targets]))
    return [[next(per_row) for _ in question.rows] for question in questions]


def _logits(model: Any, prefixes: Tensor, ids: Tensor, at: Tensor) -> Tensor:
    """Logits (N, vocab_size) at the places `at` of the flattened ids.

    Args:
        prefixes: (E, S), read once each; S may be 0.
        ids: (E, K, T), K continuations of each.
        at: (N,)
    """
    E, K, T = ids.shape
    if not prefixes.size(1):
        return model.forward(ids.view(E * K, T), at=at)
    cache = model.build_cache(E, prefixes.size(1) + T)
    model.forward(prefixes, cache=cache, at=at[:0])
    return model.forward(ids.view(E * K, T), cache=cache.branches(K), at=at)
