"""Causal attention with an optional sliding window, without a T x T mask or a T x T matrix of scores.

Only documents that don't see each other need a mask of bits.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_TOKENS = 128
"""Queries of one block on the CPU: wide enough for the matrix products, narrow enough for little masked work."""

KEPT_WIDTHS = 8
"""Probabilities are kept for the backward where a query has at most so many per channel of its head: less than half of
what a layer keeps anyway."""


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int | None = None,
    scale: float | None = None,
    seen: Tensor | None = None,
) -> Tensor:
    """Causal softmax attention; with a `window` of N each token sees itself and the N tokens before it.

    Args:
        q: (B, H, T, D).
        k, v: (B, H_kv, T, D); H_kv divides H, consecutive query heads share a key head.
        scale: factor of the scores; None: 1 / sqrt(D).
        seen: (B, 1, T, T) bool, which keys each query sees, instead of all up to its own in the window.

    Returns:
        (B, H, T, D)
    """
    B, H, T, D = q.shape
    if scale is None:
        scale = D**-0.5
    if window is not None and window >= T - 1:
        window = None
    if q.device.type != "cpu" and window is None and seen is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=k.size(1) != H)
    if k.size(1) != H:
        k, v = (x.repeat_interleave(H // x.size(1), dim=1) for x in (k, v))
    if seen is not None:  # with enable_gqa, CUDA's efficient kernels take no mask
        return F.scaled_dot_product_attention(q, k, v, seen, scale=scale)
    q, k, v = (x.reshape(B * H, T, D) for x in (q, k, v))
    return _BlockedAttention.apply(q, k, v, T - 1 if window is None else window, scale).view(B, H, T, D)


def seen_in_documents(documents: Tensor, window: int) -> Tensor:
    """(B, 1, T, T): the tokens of the same document up to a query's own, at most `window` before it.

    Args:
        documents: (B, T), a number for each token; a document's tokens stand together.
    """
    T = documents.size(1)
    near = torch.ones(T, T, dtype=torch.bool, device=documents.device).tril_().triu_(-window)
    return ((documents[:, :, None] == documents[:, None, :]) & near)[:, None]


class _BlockedAttention(torch.autograd.Function):
    """Queries block by block against the keys that they may see.

    The backward needs the probabilities again: short rows of them are kept, long ones computed a second time.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
        keep = any(ctx.needs_input_grad) and min(q.size(1), window + BLOCK_TOKENS) <= KEPT_WIDTHS * q.size(2)
        buffer, bias, kept = None if keep else _score_buffer(q, window), _band(q, window), []
        y = torch.empty_like(q)
        for rows, keys in _blocks(q.size(1), window):
            probabilities = _probabilities(q, k, rows, keys, bias, scale, buffer)
            y[:, rows] = torch.bmm(probabilities, v[:, keys])
            if keep:
                kept.append(probabilities)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.window, ctx.scale = window, scale
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        dy = dy.contiguous()
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        bias, d_buffer = _band(q, ctx.window), _score_buffer(q, ctx.window)
        buffer = None if kept else _score_buffer(q, ctx.window)
        for block, (rows, keys) in enumerate(_blocks(q.size(1), ctx.window)):
            probabilities = kept[block] if kept else _probabilities(q, k, rows, keys, bias, ctx.scale, buffer)
            dv[:, keys].baddbmm_(probabilities.transpose(1, 2), dy[:, rows])
            d_scores = d_buffer[: probabilities.numel()].view_as(probabilities)
            torch.bmm(dy[:, rows], v[:, keys].transpose(1, 2), out=d_scores)
            torch._softmax_backward_data(d_scores, probabilities, -1, q.dtype, grad_input=d_scores)
            dq[:, rows] = torch.bmm(d_scores, k[:, keys]).mul_(ctx.scale)
            dk[:, keys].baddbmm_(d_scores.transpose(1, 2), q[:, rows], alpha=ctx.scale)
        return dq, dk, dv, None, None


def _blocks(T: int, window: int) -> Iterator[tuple[slice, slice]]:
    """The queries of each block, and the keys that any of them sees."""
    for start in range(0, T, BLOCK_TOKENS):
        end = min(start + BLOCK_TOKENS, T)
        yield slice(start, end), slice(max(0, start - window), end)


def _probabilities(
    q: Tensor, k: Tensor, rows: slice, keys: slice, bias: Tensor, scale: float, buffer: Tensor | None
) -> Tensor:
    """(N, rows, keys) attention probabilities of one block, in `buffer` if it is given."""
    N, R, K, columns = q.size(0), rows.stop - rows.start, keys.stop - keys.start, bias.size(1)
    scores = q.new_empty(N, R, K) if buffer is None else buffer[: N * R * K].view(N, R, K)
    # The band's columns end with the keys of a full block. Added by the product itself, it costs nothing.
    seen = bias[:R, columns - bias.size(0) + R - K : columns - bias.size(0) + R]
    torch.baddbmm(seen, q[:, rows], k[:, keys].transpose(1, 2), alpha=scale, out=scores)
    return torch.softmax(scores, dim=-1, out=scores)


def _band(q: Tensor, window: int) -> Tensor:
    """(R, window + R): 0 where a block's query sees a key, from `window` before the block to its end, else -inf."""
    R = min(q.size(1), BLOCK_TOKENS)
    unseen = q.new_full((R, window + R), -torch.inf)
    return unseen.triu(window + 1) + unseen.tril(-1)


def _score_buffer(q: Tensor, window: int) -> Tensor:
    """Room for the scores of the largest block; used again for each block, it stays in the cache."""
    return q.new_empty(q.size(0) * min(q.size(1), BLOCK_TOKENS) * min(q.size(1), window + BLOCK_TOKENS))
