"""Learning rate, momentum and weight decay over the steps of a run."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.optim.lr_scheduler import LRScheduler

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.spec import Spec


def lr_multiplier(
    step: int, total_steps: int, warmup_steps: int, warmdown_ratio: float, final_fraction: float
) -> float:
    """Linear warmup, constant, linear warmdown over the last `warmdown_ratio` of the steps to `final_fraction`.

    `step` counts from 0; the value at `total_steps`, after the last step, is `final_fraction`.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    left = _warmdown_left(step, total_steps, warmdown_ratio)
    return left + (1 - left) * final_fraction


def momentum_at(
    step: int, total_steps: int, warmup_steps: int, warmdown_ratio: float, start: float, peak: float, end: float
) -> float:
    """Linear from `start` to `peak` in `warmup_steps`, then `peak`, linear to `end` in the warmdown."""
    if step < warmup_steps:
        return start + (peak - start) * step / warmup_steps
    left = _warmdown_left(step, total_steps, warmdown_ratio)
    return left * peak + (1 - left) * end


def cosine_decay(step: int, total_steps: int) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * min(step / total_steps, 1.0)))


def _warmdown_left(step: int, total_steps: int, warmdown_ratio: float) -> float:
    """1 before the warmdown, 0 at `total_steps` and after it."""
    warmdown_steps = round(warmdown_ratio * total_steps)
    if step <= total_steps - warmdown_steps:
        return 1.0
    return max(0.0, (total_steps - step) / warmdown_steps)


@dataclass(frozen=True)
class ScheduleSpec(Spec):
    """conf/schedule: nanochat's by default.

    Attributes:
        warmup_steps: steps of linear warmup.
        warmdown_ratio: share of the steps, at the end, in which the rates fall to `final_lr_fraction` of themselves.
        momentum_start, momentum_peak, momentum_end: of the matrices: before the warmup, after it, at the end.
        weight_decay: of the matrices; AdamW's stays as it is.
    """

    warmup_steps: int = 40
    warmdown_ratio: float = 0.65
    final_lr_fraction: float = 0.05
    momentum_start: float = 0.85
    momentum_peak: float = 0.97
    momentum_end: float = 0.90
    momentum_warmup_steps: int = 400
    weight_decay: Literal["cosine", "constant"] = "cosine"

    def check(self) -> None:
        for name in ("warmup_steps", "momentum_warmup_steps"):
            if getattr(self, name) < 0:
                raise UserError(f"schedule.{name} is {getattr(self, name)}; it must be 0 or more.")
        for name in ("warmdown_ratio", "final_lr_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"schedule.{name} is {getattr(self, name)}; it must be from 0 to 1.")
        for name in ("momentum_start", "momentum_peak", "momentum_end"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"schedule.{name} is {getattr(self, name)}; it must be from 0 to below 1.")

    def build(self, optimizer: torch.optim.Optimizer, total_steps: int) -> "StepSchedule":
        """The scheduler; call its `step()` after every optimizer step."""
        return StepSchedule(optimizer, self, total_steps)


class StepSchedule(LRScheduler):
    """Sets `lr` of all groups, and `momentum` and `weight_decay` of the groups that have a momentum.

    The values that the groups have when this is made are the initial ones. Every value is a function of the step, so
    a restored schedule goes on exactly, and by its own `total_steps` where the run has been extended since.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, spec: ScheduleSpec, total_steps: int):
        if total_steps < 1:
            raise UserError(f"The run has {total_steps} steps; it needs at least 1.")
        self.spec = spec
        self.total_steps = total_steps
        self.base_weight_decays = [group["weight_decay"] for group in optimizer.param_groups]
        super().__init__(optimizer)

    def multiplier_at(self, step: int) -> float:
        """The factor on all learning rates at a step, counted from 0."""
        spec = self.spec
        return lr_multiplier(step, self.total_steps, spec.warmup_steps, spec.warmdown_ratio, spec.final_lr_fraction)

    def get_lr(self) -> list[float | torch.Tensor]:
        multiplier = self.multiplier_at(self.last_epoch)
        return [base * multiplier for base in self.base_lrs]

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        self._apply_to_matrices()

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "step_count": self._step_count, "total_steps": self.total_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved step; `total_steps` and the initial values stay this run's."""
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = state_dict["step_count"]
        for group, lr in zip(self.optimizer.param_groups, self.get_lr()):
            group["lr"] = lr
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        self._apply_to_matrices()

    def _apply_to_matrices(self) -> None:
        spec, step, total = self.spec, self.last_epoch, self.total_steps
        momentum = momentum_at(
            step,
            total,
            spec.momentum_warmup_steps,
            spec.warmdown_ratio,
            spec.momentum_start,
            spec.momentum_peak,
            spec.momentum_end,
        )
        decay = cosine_decay(step, total) if spec.weight_decay == "cosine" else 1.0
        for group, base in zip(self.optimizer.param_groups, self.base_weight_decays):
            if "momentum" in group:
                group["momentum"] = momentum
                group["weight_decay"] = base * decay
