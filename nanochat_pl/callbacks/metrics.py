"""The training metrics at the log interval: the one place of a host sync between validations."""

import math
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.callbacks.cadence import finished, stepped
from nanochat_pl.core.errors import DivergedError, UserError


class LogMetrics(Callback):
    """Logs `train/loss` (of this step's tokens), `train/lr_multiplier`, `train/tokens`, `speed/tokens_per_second`, and
    what the stage has to say of the step.

    Raises:
        DivergedError: the loss is NaN or infinite.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        if every_n_steps < 1:
            raise UserError(f"callbacks.metrics.every_n_steps is {every_n_steps}; it must be at least 1.")
        self._every_n_steps = every_n_steps
        self._since = (0, 0.0)
        self._paused: float | None = None

    def on_train_start(self, trainer: Trainer, stage: LightningModule) -> None:
        self._since = (trainer.global_step, time.perf_counter())

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
        step = trainer.global_step
        if not stepped(trainer) or not (step % self._every_n_steps == 0 or finished(trainer)):
            return
        loss = stage.mean_step_loss().item()
        now = time.perf_counter()
        before_step, before = self._since
        self._since = (step, now)
        schedule: Any = trainer.lr_scheduler_configs[0].scheduler
        metrics = {"train/loss": loss, "train/lr_multiplier": schedule.multiplier_at(step - 1), **stage.step_metrics}
        if stage.counts_tokens:
            tokens = stage.blueprint.horizon.total_batch_tokens
            metrics["train/tokens"] = float(step * tokens)
            metrics["speed/tokens_per_second"] = (step - before_step) * tokens / (now - before)
        stage.latest.update(metrics)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        if not math.isfinite(loss):
            raise DivergedError(f"The training loss is {loss} at step {step}.")
