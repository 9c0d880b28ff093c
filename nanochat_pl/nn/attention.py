"""Causal attention with an optional sliding window, without a T x T mask or a T x T matrix of scores."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_TOKENS = 128
"""Queries of one block on the CPU: wide enough for the matrix products, narrow enough for little masked work."""


def attention(q: Tensor, k: Tensor, v: Tensor, window: int | None = None, scale: float | None = None) -> Tensor:
    """Causal softmax attention; with a `window` of N each token sees itself and the N tokens before it.

    Args:
        q: (B, H, T, D).
        k, v: (B, H_kv, T, D); H_kv divides H, consecutive query heads share a key head.
        scale: factor of the scores; None: 1 / sqrt(D).

    Returns:
        (B, H, T, D)
    """
    B, H, T, D = q.shape
    if scale is None:
        scale = D**-0.5
    if window is not None and window >= T - 1:
        window = None
    if q.device.type != "cpu" and window is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=k.size(1) != H)
    if k.size(1) != H:
        k, v = (x.repeat_interleave(H // x.size(1), dim=1) for x in (k, v))
    q, k, v = (x.reshape(B * H, T, D) for x in (q, k, v))
    return _BlockedAttention.apply(q, k, v, window, scale).view(B, H, T, D)


class _BlockedAttention(torch.autograd.Function):
    """Queries block by block against the keys that they may see; the backward computes the probabilities again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.window, ctx.scale = window, scale
        y = torch.empty_like(q)
        for rows, keys, probabilities in _probabilities(q, k, window, scale):
            y[:, rows] = torch.bmm(probabilities, v[:, keys])
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        dy = dy.contiguous()
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        buffer = _score_buffer(q, ctx.window)
        for rows, keys, probabilities in _probabilities(q, k, ctx.window, ctx.scale):
            dv[:, keys].baddbmm_(probabilities.transpose(1, 2), dy[:, rows])
            d_scores = buffer[: probabilities.numel()].view_as(probabilities)
            torch.bmm(dy[:, rows], v[:, keys].transpose(1, 2), out=d_scores)
            torch._softmax_backward_data(d_scores, probabilities, -1, q.dtype, grad_input=d_scores)
            dq[:, rows] = torch.bmm(d_scores, k[:, keys]).mul_(ctx.scale)
            dk[:, keys].baddbmm_(d_scores.transpose(1, 2), q[:, rows], alpha=ctx.scale)
        return dq, dk, dv, None, None


def _probabilities(q: Tensor, k: Tensor, window: int | None, scale: float) -> Iterator[tuple[slice, slice, Tensor]]:
    """For each block of queries: its rows, the keys that any of them sees, and the (N, rows, keys) probabilities.

    The probabilities are overwritten by the next block's.
    """
    N, T, _ = q.shape
    buffer = _score_buffer(q, window)
    for start in range(0, T, BLOCK_TOKENS):
        end = min(start + BLOCK_TOKENS, T)
        first = 0 if window is None else max(0, start - window)
        scores = buffer[: N * (end - start) * (end - first)].view(N, end - start, end - first)
        torch.baddbmm(scores, q[:, start:end], k[:, first:end].transpose(1, 2), beta=0, alpha=scale, out=scores)
        later = torch.ones(end - start, end - start, dtype=torch.bool, device=q.device).triu(1)
        scores[:, :, start - first :].masked_fill_(later, -torch.inf)
        if window is not None and (edge := end - 1 - window - first) > 0:  # keys that the block's last query has left
            left = torch.ones(end - start, edge, dtype=torch.bool, device=q.device).tril(start - window - first - 1)
            scores[:, :, :edge].masked_fill_(left, -torch.inf)
        yield slice(start, end), slice(first, end), torch.softmax(scores, dim=-1, out=scores)


def _score_buffer(q: Tensor, window: int | None) -> Tensor:
    """Room for the scores of the largest block; used again for each block, it stays in the cache."""
    N, T, _ = q.shape
    keys = T if window is None else min(T, window + BLOCK_TOKENS)
    return q.new_empty(N * min(T, BLOCK_TOKENS) * keys)
