"""Layers without a home of their own: the casting Linear, the MLP, RMSNorm without parameters, ReLU squared.

The autograd functions save less and pass over memory less often than autograd would: that is what bounds the work
between two matrix products of an eager step.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat_pl.nn.few_rows import MAX_ROWS, in_blocks, product

_WIDER = {torch.bfloat16: torch.float32, torch.float16: torch.float32}


class Linear(nn.Linear):
    """A linear map whose weight is cast to the input's dtype, so that masters stay float32.

    Attributes:
        in_training: a layer with the same weight that takes its place where gradients are wanted (`nn.float8`,
            `nn.molegrad`), but adds no bias; in a tuple, so that it is no part of this one.
    """

    in_training: tuple[nn.Module, ...] = ()

    def __init__(self, in_features: int, out_features: int, bias: bool = False):
        super().__init__(in_features, out_features, bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self._product(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _product(self, x: Tensor) -> Tensor:
        if self.in_training and self.training and torch.is_grad_enabled():
            return self.in_training[0](x)
        weight = self.weight if self.weight.dtype == x.dtype else self.weight.to(x.dtype)
        few = x.numel() <= MAX_ROWS * self.in_features and x.ndim > 1
        if few and x.is_cpu and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return product(x.flatten(0, -2), in_blocks(weight)).view(*x.shape[:-1], self.out_features)
        return F.linear(x, weight)


class MLP(nn.Module):
    """Four times as wide inside, with ReLU squared.

    Attributes:
        in_training: as of Linear.
    """

    in_training: tuple[nn.Module, ...] = ()

    def __init__(self, width: int):
        super().__init__()
        self.fc = Linear(width, 4 * width)
        self.proj = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.in_training and self.training and torch.is_grad_enabled():
            return self.in_training[0](x)
        return self.proj(relu_squared(self.fc(x)))


def rms_norm(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension, no parameters; eps is the dtype's machine epsilon."""
    return _RMSNorm.apply(x) if torch.is_grad_enabled() else (x * inverse_rms(x)).to(x.dtype)


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2 (Primer, arXiv:2109.08668)."""
    return _ReLUSquared.apply(x) if torch.is_grad_enabled() else F.relu(x).square_()


def inverse_rms(x: Tensor) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) over the last dimension, which is kept; at least float32."""
    if torch.compiler.is_compiling():  # which fuses the plain formula, and cannot see through the cache below
        mean_square = x.to(_WIDER.get(x.dtype, x.dtype)).square().mean(-1, keepdim=True)
        return torch.rsqrt(mean_square + torch.finfo(x.dtype).eps)
    norm = torch.linalg.vector_norm(x, 2, -1, True, dtype=_WIDER.get(x.dtype))
    return torch.addcmul(_epsilon(x.dtype, x.device), norm, norm, value=1 / x.size(-1)).rsqrt_()


@functools.cache
def _epsilon(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The dtype's machine epsilon as a tensor, which costs a decoding step less than a Python number does."""
    with torch.inference_mode(False):
        return torch.tensor(torch.finfo(dtype).eps, dtype=_WIDER.get(dtype, dtype), device=device)


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
