"""Choosing the next token of each row from its logits, by settings of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat_pl.inference.sampling import Sampling


def choose(
    logits: Tensor, settings: Sequence[Sampling], before: Sequence[Sequence[int]], uniforms: Sequence[float]
) -> tuple[list[int], list[float | None]]:
    """The next token of each row, and its log-probability where the row's settings ask for it.

    Args:
        logits: (B, V) float32.
        before: the tokens of each row so far, for the repetition penalty.
        uniforms: a number in [0, 1) for each row; the same one draws the same token, whatever the other rows are.
    """
    given = logits
    penalized = [i for i, row in enumerate(settings) if row.repetition_penalty != 1]
    if penalized:
        logits = logits.clone()
        for i in penalized:
            ids = torch.tensor(sorted(set(before[i])), dtype=torch.int64, device=logits.device)
            old, penalty = logits[i, ids], settings[i].repetition_penalty
            logits[i, ids] = torch.where(old > 0, old / penalty, old * penalty)
    chosen = torch.empty(len(settings), dtype=torch.int64, device=logits.device)
    # Apart, for the same number finds another token among sorted probabilities.
    kinds = [_likeliest if row.temperature == 0 else _draw_filtered if row.is_filtered else _draw for row in settings]
    for kind in set(kinds):
        own = [i for i, other in enumerate(kinds) if other is kind]
        if len(own) == len(settings):
            chosen = kind(logits, settings, uniforms)
        else:
            chosen[own] = kind(logits[own], [settings[i] for i in own], [uniforms[i] for i in own])
    logprobs: list[float | None] = [None] * len(settings)
    if any(row.logprobs for row in settings):
        values = given.gather(1, chosen[:, None]).squeeze(1) - given.logsumexp(dim=-1)
        logprobs = [value if row.logprobs else None for value, row in zip(values.tolist(), settings)]
    return chosen.tolist(), logprobs


def _likeliest(logits: Tensor, settings: Sequence[Sampling], uniforms: Sequence[float]) -> Tensor:
    """Token ids (B,)."""
    return logits.argmax(dim=-1)


def _draw(logits: Tensor, settings: Sequence[Sampling], uniforms: Sequence[float]) -> Tensor:
    """Token ids (B,) among all tokens."""
    scaled = logits / _column([row.temperature for row in settings], logits)
    return _invert(torch.softmax(scaled, dim=-1), uniforms).squeeze(1)


def _draw_filtered(logits: Tensor, settings: Sequence[Sampling], uniforms: Sequence[float]) -> Tensor:
    """Token ids (B,) among those that the filters leave; sorted, so that each filter cuts a tail."""
    V = logits.size(1)
    scaled = logits / _column([row.temperature for row in settings], logits)
    top_k = [min(row.top_k or V, V) for row in settings]
    k = max(top_k)
    scaled, ids = scaled.topk(k, dim=-1) if k < V else scaled.sort(dim=-1, descending=True)
    kept = _column([float(k) for k in top_k], logits)
    scaled = scaled.masked_fill(torch.arange(k, device=logits.device) >= kept, -torch.inf)
    probabilities = torch.softmax(scaled, dim=-1)
    top_p = _column([1.0 if row.top_p is None else row.top_p for row in settings], logits)
    min_p = _column([row.min_p or 0.0 for row in settings], logits)
    cut = (probabilities.cumsum(-1) - probabilities >= top_p) | (probabilities < min_p * probabilities[:, :1])
    cut[:, 0] = False
    return ids.gather(1, _invert(probabilities.masked_fill(cut, 0.0), uniforms)).squeeze(1)


def _invert(probabilities: Tensor, uniforms: Sequence[float]) -> Tensor:
    """(B, 1): where the cumulative probabilities of each row pass its number; overwrites them."""
    cumulative = probabilities.cumsum_(-1)
    total = cumulative[:, -1:]
    # Below the total even where the number is rounded to 1, so that nothing behind the last possible token is drawn.
    target = torch.minimum(_column(uniforms, total) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device)[:, None]
