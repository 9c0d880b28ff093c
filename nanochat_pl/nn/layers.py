"""Layers without a home of their own: the casting Linear, RMSNorm without parameters, ReLU squared.

The autograd functions save less and pass over memory less often than autograd would: that is what bounds the work
between two matrix products of an eager step.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """A linear map without bias whose weight is cast to the input's dtype, so that masters stay float32."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def rms_norm(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension, no parameters; eps is the dtype's machine epsilon."""
    return _RMSNorm.apply(x) if torch.is_grad_enabled() else (x * inverse_rms(x)).to(x.dtype)


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2 (Primer, arXiv:2109.08668)."""
    return _ReLUSquared.apply(x) if torch.is_grad_enabled() else F.relu(x).square_()


def inverse_rms(x: Tensor) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) over the last dimension, which is kept; at least float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype)
    return norm.square_().div_(x.size(-1)).add_(torch.finfo(x.dtype).eps).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scale = inverse_rms(x)
        y = (x * scale).to(x.dtype)
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        y, scale = ctx.saved_tensors
        along = torch.linalg.vecdot(dy, y).unsqueeze(-1).div_(y.size(-1))
        return torch.addcmul(dy, y, along, value=-1).mul_(scale)


class _ReLUSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = F.relu(x)
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return torch.mul(dy, positive).mul_(2)
