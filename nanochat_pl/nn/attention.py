"""Causal attention with an optional sliding window."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, window: int | None = None, scale: float | None = None) -> Tensor:
    """Causal softmax attention; with a `window` of N each token sees itself and the N tokens before it.

    Args:
        q: (B, T, H, D).
        k, v: (B, T, H_kv, D); H_kv divides H, consecutive query heads share a key head.
        scale: factor of the scores; None: 1 / sqrt(D).

    Returns:
        (B, T, H, D)
    """
    T = q.size(1)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    gqa = q.size(1) != k.size(1)
    if window is None or window >= T - 1:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=gqa)
    else:
        position = torch.arange(T, device=q.device)
        distance = position[:, None] - position
        mask = (distance >= 0) & (distance <= window)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=gqa)
    return y.transpose(1, 2)
