"""Learning rate, momentum and weight decay over the steps of a run."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.optim.lr_scheduler import LRScheduler

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.spec import Spec


def lr_multiplier(
    step: int,
    total_steps: int,
    warmup_steps: int,
    warmdown_ratio: float,
    final_fraction: float,
    shape: Literal["linear", "cosine"] = "linear",
) -> float:
    """Linear warmup, constant, warmdown over the last `warmdown_ratio` of the steps to `final_fraction`.

    `step` counts from 0; the value at `total_steps`, after the last step, is `final_fraction`. A warmdown that would
    begin in the warmup begins after it.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    left = _warmdown_left(step, total_steps, min(round(warmdown_ratio * total_steps), total_steps - warmup_steps))
    if shape == "cosine":
        left = cosine_decay(1 - left)
    return left + (1 - left) * final_fraction


def momentum_at(
    step: int, total_steps: int, warmup_steps: int, warmdown_ratio: float, start: float, peak: float, end: float
) -> float:
    """Linear from `start` to `peak` in `warmup_steps`, then `peak`, linear to `end` in the warmdown."""
    if step < warmup_steps:
        return start + (peak - start) * step / warmup_steps
    left = _warmdown_left(step, total_steps, round(warmdown_ratio * total_steps))
    return left * peak + (1 - left) * end


def cosine_decay(done: float) -> float:
    """From 1 to 0 along half a cosine, while `done` goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _warmdown_left(step: int, total_steps: int, warmdown_steps: int) -> float:
    """1 before the warmdown, 0 at `total_steps` and after it."""
    if step <= total_steps - warmdown_steps:
        return 1.0
    return max(0.0, (total_steps - step) / warmdown_steps)


@dataclass(frozen=True)
class ScheduleSpec(Spec):
    """conf/schedule: nanochat's by default.

    Attributes:
        warmup_steps: steps of linear warmup.
        warmdown_ratio: share of the steps, at the end, in which the rates fall to `final_lr_fraction` of themselves.
        shape: of the fall.
        momentum_start, momentum_peak, momentum_end: of MuonAdamW's matrices: before the warmup, after it, at the end;
            None leaves the optimizer's own.
        weight_decay: of MuonAdamW's matrices; every other stays as it is.
    """

    warmup_steps: int = 40
    warmdown_ratio: float = 0.65
    final_lr_fraction: float = 0.05
    shape: Literal["linear", "cosine"] = "linear"
    momentum_start: float | None = 0.85
    momentum_peak: float | None = 0.97
    momentum_end: float | None = 0.90
    momentum_warmup_steps: int = 400
    weight_decay: Literal["cosine", "constant"] = "cosine"

    def check(self) -> None:
        for name in ("warmup_steps", "momentum_warmup_steps"):
            if getattr(self, name) < 0:
                raise UserError(f"schedule.{name} is {getattr(self, name)}; it must be 0 or more.")
        for name in ("warmdown_ratio", "final_lr_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"schedule.{name} is {getattr(self, name)}; it must be from 0 to 1.")
        momenta = ("momentum_start", "momentum_peak", "momentum_end")
        for name in momenta:
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UserError(f"schedule.{name} is {value}; it must be from 0 to below 1, or null.")
        if len({getattr(self, name) is None for name in momenta}) == 2:
            raise UserError(f"Either all of schedule.{', '.join(momenta)} are set, or none is (null).")

    def lr_multiplier(self, step: int, total_steps: int) -> float:
        """The factor on all learning rates at a step, counted from 0."""
        shares = (self.warmdown_ratio, self.final_lr_fraction)
        return lr_multiplier(step, total_steps, self.warmup_steps, *shares, self.shape)

    def momentum(self, step: int, total_steps: int) -> float | None:
        """Of the matrices at a step; None: the optimizer's own."""
        start, peak, end = self.momentum_start, self.momentum_peak, self.momentum_end
        if start is None or peak is None or end is None:
            return None
        return momentum_at(step, total_steps, self.momentum_warmup_steps, self.warmdown_ratio, start, peak, end)

    def decay_multiplier(self, step: int, total_steps: int) -> float:
        """The factor on the matrices' weight decay at a step."""
        return cosine_decay(step / total_steps) if self.weight_decay == "cosine" else 1.0

    def build(self, optimizer: torch.optim.Optimizer, total_steps: int) -> "StepSchedule":
        """The scheduler; call its `step()` after every optimizer step."""
        return StepSchedule(optimizer, self, total_steps)


@dataclass(frozen=True)
class RangeTestSpec(Spec):
    """schedule=range: rates that rise exponentially, to see which are too low and which too high (Smith, arXiv
    1506.01186).

    Attributes:
        lowest, highest: factors on all rates in the first and in the last step.
    """

    lowest: float = 1e-3
    highest: float = 1e3

    def check(self) -> None:
        if not 0 < self.lowest < self.highest < float("inf"):
            raise UserError(
                f"schedule.lowest is {self.lowest:g} and schedule.highest {self.highest:g}; the first must be above 0 "
                "and below the second."
            )

    def lr_multiplier(self, step: int, total_steps: int) -> float:
        """The factor on all learning rates at a step, counted from 0."""
        return self.lowest * (self.highest / self.lowest) ** (step / max(1, total_steps - 1))

    def momentum(self, step: int, total_steps: int) -> None:
        """The optimizer's own."""

    def decay_multiplier(self, step: int, total_steps: int) -> float:
        """As it is."""
        return 1.0

    def build(self, optimizer: torch.optim.Optimizer, total_steps: int) -> "StepSchedule":
        """The scheduler; call its `step()` after every optimizer step."""
        return StepSchedule(optimizer, self, total_steps)


class StepSchedule(LRScheduler):
    """Sets `lr` of all groups, and `momentum` and `weight_decay` of MuonAdamW's groups with a momentum.

    The values that the groups have when this is made are the initial ones. Every value is a function of the step, so
    a restored schedule goes on exactly, and by its own `total_steps` where the run has been extended since.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, spec: ScheduleSpec | RangeTestSpec, total_steps: int):
        if total_steps < 1:
            raise UserError(f"The run has {total_steps} steps; it needs at least 1.")
        self.spec = spec
        self.total_steps = total_steps
        self.base_weight_decays = [group["weight_decay"] for group in optimizer.param_groups]
        super().__init__(optimizer)

    def multiplier_at(self, step: int) -> float:
        """The factor on all learning rates at a step, counted from 0."""
        return self.spec.lr_multiplier(step, self.total_steps)

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
        if not getattr(self.optimizer, "momentum_follows_schedule", False):
            return
        momentum = self.spec.momentum(self.last_epoch, self.total_steps)
        decay = self.spec.decay_multiplier(self.last_epoch, self.total_steps)
        for group, base in zip(self.optimizer.param_groups, self.base_weight_decays):
            if "momentum" in group:
                group["weight_decay"] = base * decay
                if momentum is not None:
                    group["momentum"] = momentum
