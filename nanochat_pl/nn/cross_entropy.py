"""Cross-entropy of a linear head with softcap, without ever holding the logits of all tokens."""

from typing import Any, Literal

import torch
from torch import Tensor

from nanochat_pl.nn.compiled import compiled

CHUNK_BYTES = {"cpu": 8 * 2**20}
"""Logits of the tokens that are worked on at once: what stays in a CPU's cache, or what fills an accelerator."""
ACCELERATOR_CHUNK_BYTES = 256 * 2**20


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    *,
    vocab_size: int | None = None,
    softcap: float | None = None,
    ignore_index: int = -100,
    reduction: Literal["sum", "none"] = "sum",
    compile: bool = False,
) -> Tensor:
    """Softmax cross-entropy of softcap * tanh(x @ weight.T / softcap) against the targets, chunk by chunk of tokens.

    With "sum" the gradients are computed in the forward pass, so the logits are computed once; with "none", whose
    incoming gradient is known only later, the backward pass computes them again.

    Args:
        x: (..., C).
        weight: (V, C), cast to the dtype of x; its gradient is accumulated in float32.
        targets: (...) ids below `vocab_size`, or `ignore_index`, whose loss and gradient are 0.
        weights: (...) factor of each token's loss; gets no gradient.
        vocab_size: rows of `weight` that are tokens; the rest is padding without probability. None: all.
        softcap: None: logits as they come.
        compile: on a GPU, fuse what stands between the matrix products; for calls of always the same shapes.

    Returns:
        The weighted sum, (), or the weighted loss of each token, (...); float32 (float64 for float64 inputs).
    """
    rows = targets.reshape(-1)
    counted = rows != ignore_index
    factors = counted.to(_accumulation_dtype(x))
    if weights is not None:
        factors = factors * weights.reshape(-1)
    gradients, fuse = torch.is_grad_enabled(), compile and x.device.type == "cuda"
    head = _Head(vocab_size or weight.size(0), softcap, reduction, gradients, fuse)
    loss = _LinearCrossEntropy.apply(x.reshape(-1, x.size(-1)), weight, rows.where(counted, 0), factors, head)
    return loss if reduction == "sum" else loss.view(targets.shape)


class _Head:
    def __init__(self, vocab_size: int, softcap: float | None, reduction: str, gradients: bool, fuse: bool):
        self.vocab_size, self.softcap, self.reduction = vocab_size, softcap, reduction
        self.gradients, self.fuse = gradients, fuse


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, factors: Tensor, head: _Head) -> Tensor:
        ctx.head = head
        gradients = head.gradients and any(ctx.needs_input_grad[:2]) and head.reduction == "sum"
        losses, dx, dweight = _sweep(x, weight, targets, factors, head, gradients)
        if head.reduction == "none":
            ctx.save_for_backward(x, weight, targets, factors)
            return losses
        ctx.save_for_backward(dx, dweight)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.head.reduction == "none":
            x, weight, targets, factors = ctx.saved_tensors
            _, dx, dweight = _sweep(x, weight, targets, factors * grad, ctx.head, True)
        else:
            dx, dweight = ctx.saved_tensors
            dx, dweight = (dx * grad).to(dx.dtype), dweight * grad
        return dx, dweight, None, None, None


def _sweep(
    x: Tensor, weight: Tensor, targets: Tensor, factors: Tensor, head: _Head, gradients: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Losses (N,) and, if asked for, the gradients of their sum with respect to x (N, C) and weight (V, C).

    softcap * tanh(z / softcap) is written as 2 softcap sigmoid(2 z / softcap) - softcap, whose constant the softmax
    drops: the sigmoid is the cheaper of the two, and its derivative is u (1 - u).
    """
    dtype = _accumulation_dtype(x)
    vocabulary = weight[: head.vocab_size].to(x.dtype)
    losses = torch.empty(x.size(0), dtype=dtype, device=x.device)
    dx = torch.empty_like(x) if gradients else None
    dweight = torch.zeros(weight.shape, dtype=dtype, device=x.device) if gradients else None
    chunk = _chunk_tokens(head, x)
    buffers = x.new_empty(1 if head.fuse else 2, min(chunk, x.size(0)), head.vocab_size)
    for start in range(0, x.size(0), chunk):
        rows = slice(start, min(start + chunk, x.size(0)))
        target, factor = targets[rows, None], factors[rows, None]
        z, *scores = buffers[:, : rows.stop - rows.start]
        alpha = 1.0 if head.softcap is None else 2 / head.softcap
        torch.addmm(z, x[rows], vocabulary.t(), beta=0, alpha=alpha, out=z)
        if head.fuse:
            loss, dz = compiled(fused_losses)(z, target, head.softcap, gradients)
        else:
            loss, dz = _losses_in_place(z, scores[0], target, head.softcap, gradients)
        losses[rows] = (loss * factor).squeeze(-1)
        if dx is None or dweight is None:
            continue
        if head.softcap is not None:
            factor = factor * 4
        dx[rows] = (dz @ vocabulary).mul_(factor)
        scaled = (x[rows] * factor).to(x.dtype)
        tokens = dweight[: head.vocab_size]
        if dtype == x.dtype:
            torch.addmm(tokens, dz.t(), scaled, out=tokens)
        else:
            tokens += dz.t() @ scaled
    return losses, dx, dweight


def fused_losses(z: Tensor, target: Tensor, softcap: float | None, gradients: bool) -> tuple[Tensor, Tensor | None]:
    """The plain formula of a chunk's losses and gradients, for the compiler to fuse.

    Args:
        z: (N, V) logits, times 2 / softcap if there is one.
        target: (N, 1).

    Returns:
        The losses (N, 1) and, if asked for, their gradient with respect to the logits in z's dtype; with a softcap a
        quarter of it.
    """
    wide = z.to(_accumulation_dtype(z))
    u = None if softcap is None else torch.sigmoid(wide)
    scores = wide if u is None or softcap is None else u * (2 * softcap)
    shifted = scores - scores.amax(-1, keepdim=True)
    exponentials = shifted.exp()
    total = exponentials.sum(-1, keepdim=True)
    losses = total.log() - shifted.gather(-1, target)
    if not gradients:
        return losses, None
    is_target = torch.arange(z.size(1), device=z.device) == target
    dz = exponentials / total - is_target.to(wide.dtype)
    if u is not None:
        dz = dz * (u - u * u)
    return losses, dz.to(z.dtype)


def _losses_in_place(
    z: Tensor, scores: Tensor, target: Tensor, softcap: float | None, gradients: bool
) -> tuple[Tensor, Tensor | None]:
    """The same in few passes over memory that is there already; z and the buffer `scores` are overwritten."""
    dtype = _accumulation_dtype(z)
    if softcap is None:
        scores = z.to(dtype)
    else:
        u = z.to(dtype).sigmoid_()
        scores = torch.mul(u, 2 * softcap, out=scores if scores.dtype == dtype else None)
    top, at_target = scores.amax(-1, keepdim=True), scores.gather(-1, target)
    p = torch.softmax(scores, dim=-1, out=scores)
    losses = top - at_target - p.amax(-1, keepdim=True).log()
    if not gradients:
        return losses, None
    dz = p.scatter_add_(-1, target, torch.full_like(at_target, -1.0))
    if softcap is not None:
        dz.mul_(torch.addcmul(u, u, u, value=-1, out=u))
    return losses, dz.to(z.dtype)


def _chunk_tokens(head: _Head, x: Tensor) -> int:
    if not head.fuse:
        size = CHUNK_BYTES.get(x.device.type, ACCELERATOR_CHUNK_BYTES)
        return max(16, size // (head.vocab_size * _accumulation_dtype(x).itemsize))
    # Fused, no float32 scores exist. Chunks of one length are one graph.
    N, most = x.size(0), max(16, ACCELERATOR_CHUNK_BYTES // (head.vocab_size * x.dtype.itemsize))
    least = -(-N // most)
    count = next((count for count in range(least, 2 * least) if N % count == 0), least)
    return -(-N // count)


def _accumulation_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
