"""Gradients made smaller where they are too large."""

from collections.abc import Iterable

import torch
from torch import Tensor


def grads_of(params: Iterable[Tensor]) -> list[Tensor]:
    """Those that there are."""
    return [p.grad for p in params if p.grad is not None]


def clip_(grads: list[Tensor], grad_clip: float | None, param_clip: float | None = None) -> list[Tensor]:
    """Scale gradients in place; returns the factor of each, or nothing where none is scaled.

    Args:
        grad_clip: largest norm of all together; None does not clip.
        param_clip: largest norm of each, which comes first.
    """
    if not grads or grad_clip is param_clip is None:
        return []
    norms = torch._foreach_norm(grads, 2, dtype=torch.float32)
    factors = [torch.ones_like(norm) for norm in norms]
    if param_clip is not None:
        factors = [(param_clip / (norm + 1e-6)).clamp_(max=1.0) for norm in norms]
        torch._foreach_mul_(norms, factors)
    if grad_clip is not None:
        total = torch.stack(norms).norm()
        torch._foreach_mul_(factors, (grad_clip / (total + 1e-6)).clamp_(max=1.0))
    torch._foreach_mul_(grads, factors)
    return factors
