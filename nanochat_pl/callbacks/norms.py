"""How large gradients and updates are, by the role of the parameters: measured on the device, read with the loss."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from nanochat_pl.callbacks.cadence import stepped
from nanochat_pl.callbacks.metrics import logs_after
from nanochat_pl.optim.groups import LOW_RANK

SAMPLED_ELEMENTS = 1 << 14
"""Of each parameter, from all over it: the ratio of two norms needs no more, and nothing as large as the model is kept.
"""
TINY = 1e-12


class Norms(Callback):
    """Leaves `grad_norm/ROLE` and `update_ratio/ROLE` to the metrics, at the steps at which these are logged.

    The first is the norm of the gradients before clipping, the second that of the step's change over that of the
    parameters. Stands before the metrics. The first process measures: gradients and parameters are the same on all.
    Matrices that have sketches in place of gradients are left out: each process has its own.
    """

    def __init__(self) -> None:
        self._norms: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, stage: Any, optimizer: torch.optim.Optimizer) -> None:
        if not trainer.is_global_zero or not logs_after(trainer, trainer.global_step + 1):
            return
        for group in _measurable(optimizer):
            role, params = group["role"], group["params"]
            gradients = [p.grad for p in params if p.grad is not None]
            if gradients:
                self._norms[role] = torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float32)).norm()
            self._before[role] = _sampled(params)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self._before or not stepped(trainer):
            return
        for role, norm in self._norms.items():
            stage.measured[f"grad_norm/{role}"] = norm * stage.gradient_scale
        for group in _measurable(trainer.optimizers[0]):
            before = self._before[group["role"]]
            change = _sampled(group["params"]).sub_(before).norm()
            stage.measured[f"update_ratio/{group['role']}"] = change / before.norm().clamp_min(TINY)
        self._norms.clear()
        self._before.clear()


def _measurable(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if group["role"] != LOW_RANK]


def _sampled(params: Iterable[Tensor]) -> Tensor:
    """Some elements of each, float32; the odd stride takes them from all rows and columns."""
    parts = []
    for p in params:
        flat = p.detach().view(-1)
        parts.append(flat[:: flat.numel() // SAMPLED_ELEMENTS | 1].float())
    return torch.cat(parts)
