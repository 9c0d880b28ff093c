"""The progress bar on a terminal; elsewhere one log line a validation."""

import logging
import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from nanochat_pl.callbacks.cadence import AtEnd, stepped

log = logging.getLogger(__name__)


class Progress(AtEnd):
    """Step, loss, validation bits per byte, tokens per second and the time that remains."""

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._task: Any = None

    def on_train_start(self, trainer: Trainer, stage: LightningModule) -> None:
        if trainer.is_global_zero and sys.stderr.isatty():
            from rich.console import Console

            self._bar = RichProgress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[metrics]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                refresh_per_second=4,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                "training", total=trainer.max_steps, completed=trainer.global_step, metrics=""
            )

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._bar is not None and stepped(trainer):
            self._bar.update(self._task, completed=trainer.global_step, metrics=self._metrics(stage))

    def on_validation_end(self, trainer: Trainer, stage: Any) -> None:
        log.info("step %d/%d: %s", trainer.global_step, trainer.max_steps, self._metrics(stage))

    def at_end(self, trainer: Trainer, stage: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @staticmethod
    def _metrics(stage: Any) -> str:
        formats = {
            "train/loss": "loss {:.4f}",
            "val/bpb": "val bpb {:.4f}",
            "rl/reward": "reward {:.3f}",
            "val/pass@1": "val pass@1 {:.3f}",
            "speed/tokens_per_second": "{:,.0f} tok/s",
        }
        return "  ".join(text.format(stage.latest[name]) for name, text in formats.items() if name in stage.latest)
