"""The training metrics at the log interval: the one place of a host sync between validations."""

import math
import time
from typing import Annotated, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.callbacks.cadence import stepped
from nanochat_pl.core.chips import device_name, find_chip
from nanochat_pl.core.errors import DivergedError
from nanochat_pl.core.spec import AtLeast
from nanochat_pl.models.cost import ModelCost


class LogMetrics(Callback):
    """Logs `train/loss` (of this step's tokens), `train/lr_multiplier`, `train/tokens`, `speed/tokens_per_second`,
    `speed/mfu` (where the chip's peak is known), `speed/loader_seconds` (of a step, waited for data),
    `memory/gpu_bytes` (allocated between two steps), and what the stage and other callbacks have measured.

    The losses of all steps since the last time are read together, and left in `stage.recent_losses`.

    Raises:
        DivergedError: the loss is NaN or infinite.
    """

    ends_training = True

    def __init__(self, every_n_steps: Annotated[int, AtLeast(1)] = 10) -> None:
        self.every_n_steps = every_n_steps
        self._since = (0, 0.0)
        self._paused: float | None = None
        self._losses: list[torch.Tensor] = []
        self._waited: float | None = None
        self._peak_tokens_per_second: float | None = None

    def due(self, trainer: Trainer, step: int) -> bool:
        """Whether metrics are logged after this step."""
        return step % self.every_n_steps == 0 or step >= trainer.max_steps

    def on_train_start(self, trainer: Trainer, stage: Any) -> None:
        self._since = (trainer.global_step, time.perf_counter())
        self._waited = getattr(trainer.datamodule, "waited_seconds", None)  # type: ignore[attr-defined]
        if stage.counts_tokens and (peak := peak_flops(trainer, stage)):
            self._peak_tokens_per_second = peak / ModelCost(stage.blueprint.model).training_flops_per_token

    def leave_out(self, seconds: float) -> None:
        """So much time since the last metrics was no training."""
        step, since = self._since
        self._since = (step, since + seconds)

    def on_validation_start(self, trainer: Trainer, stage: LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, stage: LightningModule, batch: Any, batch_idx: int) -> None:
        # What happened at the validation (samples, export, checkpoint) is no training time.
        if self._paused is not None:
            step, seconds = self._since
            self._since = (step, seconds + time.perf_counter() - self._paused)
            self._paused = None

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not stepped(trainer):
            return
        step = trainer.global_step
        self._losses.append(stage.step_loss)
        if not self.due(trainer, step):
            return
        losses, measured = self._read(trainer, stage)
        schedule: Any = trainer.lr_scheduler_configs[0].scheduler
        metrics = {"train/loss": losses[-1], "train/lr_multiplier": schedule.multiplier_at(step - 1)}
        metrics |= self._speed(trainer, stage) | stage.step_metrics | measured
        if trainer.strategy.root_device.type == "cuda":
            metrics["memory/gpu_bytes"] = float(torch.cuda.memory_allocated())
        stage.latest.update(metrics)
        stage.recent_losses = losses
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        if not math.isfinite(losses[-1]):
            raise DivergedError(f"The training loss is {losses[-1]} at step {step}.")

    def _read(self, trainer: Trainer, stage: Any) -> tuple[list[float], dict[str, float]]:
        """The losses of the steps since the last time, over all processes, and what others have measured; one sync."""
        losses = trainer.strategy.reduce(torch.stack(self._losses), reduce_op="mean")
        names, tensors = list(stage.measured), list(stage.measured.values())
        values = torch.cat([losses, torch.stack(tensors)] if tensors else [losses]).tolist()
        count = len(self._losses)
        self._losses.clear()
        stage.measured.clear()
        return values[:count], dict(zip(names, values[count:]))

    def _speed(self, trainer: Trainer, stage: Any) -> dict[str, float]:
        step, now = trainer.global_step, time.perf_counter()
        before_step, before = self._since
        self._since = (step, now)
        metrics = {}
        if stage.counts_tokens:
            tokens = stage.blueprint.horizon.total_batch_tokens
            metrics["train/tokens"] = float(step * tokens)
            speed = metrics["speed/tokens_per_second"] = (step - before_step) * tokens / (now - before)
            if self._peak_tokens_per_second:
                metrics["speed/mfu"] = speed / self._peak_tokens_per_second
        if self._waited is not None:
            waited = trainer.datamodule.waited_seconds  # type: ignore[attr-defined]
            metrics["speed/loader_seconds"] = (waited - self._waited) / (step - before_step)
            self._waited = waited
        return metrics


def logs_after(trainer: Trainer, step: int) -> bool:
    """Whether the training's metrics are logged after this step."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(callback, LogMetrics) and callback.due(trainer, step) for callback in callbacks)


def peak_flops(trainer: Trainer, stage: Any) -> float | None:
    """Of all devices together, per second; None: unknown."""
    accelerator = trainer.strategy.root_device.type
    chip = None if accelerator == "cpu" else find_chip(device_name(accelerator))
    precision = "float32" if stage.blueprint.model.dtype == torch.float32 else "bfloat16"
    peak = chip.peak_flops(precision) if chip else None
    return peak and peak * trainer.world_size
