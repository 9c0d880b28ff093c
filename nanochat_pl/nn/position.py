"""Rotary position embedding (RoFormer, arXiv:2104.09864), halves of a head paired, as nanochat rotates."""

import torch
from torch import Tensor


def rotary_tables(length: int, head_dim: int, base: float, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (length, head_dim / 2) float32, of position times base^(-2i / head_dim)."""
    frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x[i], x[i + D/2]) by minus their angle (nanochat's direction; only differences matter).

    Args:
        x: (B, T, H, D).
        cos, sin: broadcastable to (B, T, H, D / 2).
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)
