"""Rotary position embedding (RoFormer, arXiv:2104.09864), halves of a head paired, as nanochat rotates."""

from typing import Any

import torch
from torch import Tensor

from nanochat_pl.nn.layers import inverse_rms


def rotary_tables(length: int, head_dim: int, base: float, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (length, head_dim / 2) float32, of position times base^(-2i / head_dim)."""
    frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate_and_normalize(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each head by its position, then RMSNorm it; the heads move in front of the tokens.

    The pair (x[i], x[i + D/2]) turns by minus its angle, which is nanochat's direction; scores depend only on
    differences of positions, so the direction does not matter to a model trained with it.

    Args:
        x: (B, T, H, D).
        cos, sin: (T, D / 2), or (B, T, D / 2) where the rows are at different positions; of the dtype of x.

    Returns:
        (B, H, T, D), contiguous.
    """
    return _RotateAndNormalize.apply(x, cos.unsqueeze(-3), sin.unsqueeze(-3))


class _RotateAndNormalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        scale = inverse_rms(x)  # a rotation keeps the length, so normalising first gives the same
        first, second = (x * scale).to(x.dtype).transpose(1, 2).chunk(2, dim=-1)
        y = torch.cat(_turn(first, second, cos, sin), dim=-1).contiguous()
        ctx.save_for_backward(y, scale, cos, sin)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        y, scale, cos, sin = ctx.saved_tensors
        along = torch.linalg.vecdot(dy, y).unsqueeze(-1).div_(y.size(-1))
        first, second = torch.addcmul(dy, y, along, value=-1).chunk(2, dim=-1)
        second, first = _turn(second, first, cos, sin)  # the inverse rotation is the rotation of the swapped halves
        return torch.cat((first.transpose(1, 2), second.transpose(1, 2)), dim=-1).mul_(scale), None, None


def _turn(first: Tensor, second: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return (first * cos).addcmul_(second, sin), (second * cos).addcmul_(first, sin, value=-1)
