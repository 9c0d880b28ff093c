"""Attention on shapes alone, for the memory of a training step: the tensors that a fused kernel makes and keeps."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from nanochat_pl.nn.attention.backend import Backend


class Fused(Backend):
    """What a fused kernel (FlashAttention, arXiv:2307.08691) allocates, whichever window or documents it sees."""

    def see(
        self, B: int, T: int, windows: Iterable[int], documents: Tensor | None, device: torch.device
    ) -> dict[int, None]:
        return dict.fromkeys(windows)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float, seen: None) -> Tensor:
        return FusedAttention.apply(q, k, v)


class FusedAttention(torch.autograd.Function):
    """The output and a float32 a query; in the backward pass also the queries' gradient in float32."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, y, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        q, k, v, _, _ = ctx.saved_tensors
        _accumulated = q.new_empty(q.shape, dtype=torch.float32)
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
