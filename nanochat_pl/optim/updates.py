"""One step of AdamW and of Muon for lists of tensors, in place; knows no ranks and makes the state where it is empty.

Arithmetic and state are float32, whatever the parameters' dtype. `group` holds a parameter group's values.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nanochat_pl.optim.orthogonalize import SMALLEST_NORM, equilibrate_rows_, polar_express_

SMALLEST_VARIANCE = 1e-10


def adamw_(
    group: Mapping[str, Any], params: list[Tensor], grads: list[Tensor], states: list[dict[str, Tensor]]
) -> None:
    """Update tensors of any shapes; state: `step`, `exp_avg`, `exp_avg_sq`."""
    for p, state in zip(params, states):
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["exp_avg"] = torch.zeros_like(p, dtype=torch.float32)
            state["exp_avg_sq"] = torch.zeros_like(p, dtype=torch.float32)
    masters = [p.float() for p in params]
    steps = [state["step"] for state in states]
    torch._foreach_add_(steps, 1)
    torch._fused_adamw_(
        masters,
        [grad.float() for grad in grads],
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        steps,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )
    for p, master in zip(params, masters):
        if master is not p:
            p.copy_(master)


def muon_(group: Mapping[str, Any], params: list[Tensor], grads: list[Tensor], states: list[dict[str, Tensor]]) -> None:
    """Update matrices of one shape; state: `momentum_buffer`, and `variance` of each neuron on the longer side."""
    rows, cols = params[0].shape
    neurons = -1 if rows >= cols else -2
    for p, state in zip(params, states):
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p, dtype=torch.float32)
            if group["variance_normalize"]:
                state["variance"] = p.new_zeros((rows, 1) if neurons == -1 else (1, cols), dtype=torch.float32)
    update = _nesterov(group["momentum"], grads, [state["momentum_buffer"] for state in states])
    orthogonal = _orthogonalized(group, update)
    if group["renormalize"] or group["variance_normalize"]:
        torch.mul(orthogonal, _scales(group, orthogonal, states, neurons), out=update)
    elif orthogonal is not update:
        update.copy_(orthogonal)
    _descend(group, params, update)


def _nesterov(momentum: float, grads: list[Tensor], buffers: list[Tensor]) -> Tensor:
    """Bring the momentum up to date; (K, rows, cols), the stack of what it says with the gradient."""
    update = torch.empty((len(grads), *grads[0].shape), dtype=torch.float32, device=grads[0].device)
    views = list(update.unbind())
    torch._foreach_copy_(views, grads)
    torch._foreach_lerp_(buffers, views, 1 - momentum)
    torch._foreach_lerp_(views, buffers, momentum)
    return update


def _orthogonalized(group: Mapping[str, Any], update: Tensor) -> Tensor:
    """In bfloat16 or in place."""
    in_bfloat16 = update.is_cuda if group["bfloat16_updates"] is None else group["bfloat16_updates"]
    working = update.bfloat16() if in_bfloat16 else update
    if group["equilibrate"]:
        equilibrate_rows_(working)
    return polar_express_(working, group["ns_steps"])


def _scales(group: Mapping[str, Any], stack: Tensor, states: list[dict[str, Tensor]], neurons: int) -> Tensor:
    """The factors of each matrix, or of each neuron of it, that `stack` is to be multiplied by.

    `renormalize`: to the Frobenius norm sqrt(min(rows, cols)), that of a semi-orthogonal matrix (Muon+, arXiv
    2602.21545). `variance_normalize`: each neuron by its running root mean square, which is brought up to date, with
    the matrix keeping its norm (NorMuon, arXiv 2510.05491).
    """
    squares = torch.linalg.vector_norm(stack, dim=neurons, keepdim=True, dtype=torch.float32).square()
    norm = squares.sum(dim=(-2, -1), keepdim=True).sqrt()
    scale = torch.ones_like(norm)
    if group["renormalize"]:
        scale = min(stack.shape[-2:]) ** 0.5 / norm.clamp_min(SMALLEST_NORM)
        squares, norm = squares * scale.square(), norm * scale
    if group["variance_normalize"]:
        variances = [state["variance"] for state in states]
        torch._foreach_lerp_(variances, list((squares / stack.size(neurons)).unbind()), 1 - group["beta2"])
        per_neuron = torch.stack(variances).clamp_min(SMALLEST_VARIANCE).rsqrt()
        norm_after = (squares * per_neuron.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
        scale = scale * per_neuron * (norm / norm_after.clamp_min(SMALLEST_VARIANCE))
    return scale


def _descend(group: Mapping[str, Any], params: list[Tensor], update: Tensor) -> None:
    """Take the update and the decay off the matrices; `update` is overwritten."""
    rows, cols = params[0].shape
    if group["weight_decay"]:
        stack = torch.stack(params).float()
        if group["cautious"]:
            update.addcmul_(stack, update.mul(stack).ge_(0), value=group["weight_decay"])
        else:
            update.add_(stack, alpha=group["weight_decay"])
    torch._foreach_add_(params, list(update.unbind()), alpha=-group["lr"] * max(1.0, rows / cols) ** 0.5)
