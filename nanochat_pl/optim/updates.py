"""One step of AdamW and of Muon for lists of tensors, in place; knows no ranks and makes the state where it is empty.

Arithmetic and state are float32, whatever the parameters' dtype. `group` holds a parameter group's values.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nanochat_pl.optim.orthogonalize import equilibrate_rows_, polar_express_, renormalize_

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
    _orthogonalize_(group, update)
    if group["variance_normalize"]:
        _normalize_variance_(update, [state["variance"] for state in states], group["beta2"], neurons)
    _descend(group, params, update)


def _nesterov(momentum: float, grads: list[Tensor], buffers: list[Tensor]) -> Tensor:
    """Bring the momentum up to date; (K, rows, cols), the stack of what it says with the gradient."""
    update = torch.empty((len(grads), *grads[0].shape), dtype=torch.float32, device=grads[0].device)
    views = list(update.unbind())
    torch._foreach_copy_(views, grads)
    torch._foreach_lerp_(buffers, views, 1 - momentum)
    torch._foreach_lerp_(views, buffers, momentum)
    return update


def _orthogonalize_(group: Mapping[str, Any], update: Tensor) -> None:
    in_bfloat16 = update.is_cuda if group["bfloat16_updates"] is None else group["bfloat16_updates"]
    working = update.bfloat16() if in_bfloat16 else update
    if group["equilibrate"]:
        equilibrate_rows_(working)
    polar_express_(working, group["ns_steps"])
    if working is not update:
        update.copy_(working)
    if group["renormalize"]:
        renormalize_(update)


def _normalize_variance_(update: Tensor, variances: list[Tensor], beta2: float, neurons: int) -> None:
    """Divide each neuron's update by its running root mean square, keeping the matrix's norm."""
    mean_square = update.square().mean(dim=neurons, keepdim=True)
    torch._foreach_lerp_(variances, list(mean_square.unbind()), 1 - beta2)
    scale = torch.stack(variances).clamp_min_(SMALLEST_VARIANCE).rsqrt_()
    norm = mean_square.sum(dim=(-2, -1), keepdim=True).sqrt()
    norm_after = mean_square.mul(scale.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    update.mul_(scale.mul_(norm / norm_after.clamp_min_(SMALLEST_VARIANCE)))


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
