"""Attention for CPUs, in blocks of queries: without a T x T mask or a T x T matrix of scores."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from nanochat_pl.nn.attention.backend import Backend, document_starts, falling, share_heads

BLOCK_TOKENS = 128
"""Queries of one block: wide enough for the matrix products, narrow enough for little masked work."""

KEPT_WIDTHS = 8
"""Probabilities are kept for the backward where a query has at most so many per channel of its head: less than half of
what a layer keeps anyway."""


class Blocked(Backend):
    """Plain matrix products, so it runs on every device and in every dtype."""

    name = "blocked"

    def see(
        self, B: int, T: int, windows: Iterable[int], documents: Tensor | None, device: torch.device
    ) -> dict[int, Tensor | None]:
        """(B, T), where each token's document begins."""
        return dict.fromkeys(windows, None if documents is None else document_starts(documents))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float, seen: Tensor | None) -> Tensor:
        B, H, T, D = q.shape
        q, k, v = (x.reshape(B * H, T, D) for x in (q, *share_heads(q, k, v)))
        return _BlockedAttention.apply(q, k, v, min(window, T - 1), scale, seen, self.slopes).view(B, H, T, D)


class _BlockedAttention(torch.autograd.Function):
    """Queries block by block against the keys that they may see.

    The backward needs the probabilities again: short rows of them are kept, long ones computed a second time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        window: int,
        scale: float,
        starts: Tensor | None,
        slopes: Tensor | None,
    ) -> Tensor:
        keep = any(ctx.needs_input_grad) and min(q.size(1), window + BLOCK_TOKENS) <= KEPT_WIDTHS * q.size(2)
        buffer, band, kept = None if keep else _score_buffer(q, window), _band(q, window, slopes), []
        y = torch.empty_like(q)
        for rows, keys in _blocks(q.size(1), window):
            probabilities = _probabilities(q, k, rows, keys, band, starts, scale, buffer)
            y[:, rows] = torch.bmm(probabilities, v[:, keys])
            if keep:
                kept.append(probabilities)
        ctx.save_for_backward(q, k, v, starts, slopes, *kept)
        ctx.window, ctx.scale = window, scale
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, starts, slopes, *kept = ctx.saved_tensors
        dy = dy.contiguous()
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        band, d_buffer = _band(q, ctx.window, slopes), _score_buffer(q, ctx.window)
        buffer = None if kept else _score_buffer(q, ctx.window)
        for block, (rows, keys) in enumerate(_blocks(q.size(1), ctx.window)):
            probabilities = kept[block] if kept else _probabilities(q, k, rows, keys, band, starts, ctx.scale, buffer)
            dv[:, keys].baddbmm_(probabilities.transpose(1, 2), dy[:, rows])
            d_scores = d_buffer[: probabilities.numel()].view_as(probabilities)
            torch.bmm(dy[:, rows], v[:, keys].transpose(1, 2), out=d_scores)
            torch._softmax_backward_data(d_scores, probabilities, -1, q.dtype, grad_input=d_scores)
            dq[:, rows] = torch.bmm(d_scores, k[:, keys]).mul_(ctx.scale)
            dk[:, keys].baddbmm_(d_scores.transpose(1, 2), q[:, rows], alpha=ctx.scale)
        return dq, dk, dv, None, None, None, None


def _blocks(T: int, window: int) -> Iterator[tuple[slice, slice]]:
    """The queries of each block, and the keys that any of them sees."""
    for start in range(0, T, BLOCK_TOKENS):
        end = min(start + BLOCK_TOKENS, T)
        yield slice(start, end), slice(max(0, start - window), end)


def _probabilities(
    q: Tensor,
    k: Tensor,
    rows: slice,
    keys: slice,
    band: Tensor,
    starts: Tensor | None,
    scale: float,
    buffer: Tensor | None,
) -> Tensor:
    """(N, rows, keys) attention probabilities of one block, in `buffer` if it is given."""
    N, R, K = q.size(0), rows.stop - rows.start, keys.stop - keys.start
    H, full, columns = band.shape
    scores = q.new_empty(N, R, K) if buffer is None else buffer[: N * R * K].view(N, R, K)
    bias = band[:, :R, columns - full + R - K : columns - full + R]  # ends with a full block's keys
    if starts is None:
        scores.view(-1, H, R, K).copy_(bias)
    else:
        before = torch.arange(keys.start, keys.stop, device=q.device) < starts[:, rows, None]
        scores.view(len(starts), -1, R, K).copy_(torch.where(before[:, None], -torch.inf, bias))
    scores.baddbmm_(q[:, rows], k[:, keys].transpose(1, 2), alpha=scale)
    return torch.softmax(scores, dim=-1, out=scores)


def _band(q: Tensor, window: int, slopes: Tensor | None) -> Tensor:
    """(1 or H, R, window + R): what is added to the scores of a block's queries and the keys from `window` before the
    block to its end: -inf where one is not seen, else 0, or what its distance costs.
    """
    R = min(q.size(1), BLOCK_TOKENS)
    if slopes is None:
        unseen = q.new_full((R, window + R), -torch.inf)
        return (unseen.triu(window + 1) + unseen.tril(-1))[None]
    distance = torch.arange(window, window + R, device=q.device)[:, None] - torch.arange(window + R, device=q.device)
    return falling(distance, (distance >= 0) & (distance <= window), slopes, q.dtype)


def _score_buffer(q: Tensor, window: int) -> Tensor:
    """Room for the scores of the largest block; used again for each block, it stays in the cache."""
    return q.new_empty(q.size(0) * min(q.size(1), BLOCK_TOKENS) * min(q.size(1), window + BLOCK_TOKENS))
