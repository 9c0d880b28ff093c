"""summary.json, current at every validation and at the very end."""

import contextlib
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.callbacks.cadence import stepped
from nanochat_pl.core.errors import MachineError
from nanochat_pl.core.memory import peak_memory_bytes
from nanochat_pl.core.run_folder import RunFolder


class Summary(Callback):
    """Writes what the run has reached; `status` is written by whoever ends the run.

    Args:
        started: `time.perf_counter()` when this invocation began.
    """

    ends_training = True

    def __init__(self, started: float) -> None:
        self._started = started
        self._first_step_seconds: float | None = None
        self._before: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, stage: LightningModule) -> None:
        self._before = RunFolder(trainer.default_root_dir).read_summary()

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._first_step_seconds is None and stepped(trainer):
            self._first_step_seconds = time.perf_counter() - self._started

    def on_validation_end(self, trainer: Trainer, stage: Any) -> None:
        with contextlib.suppress(OSError, MachineError):  # a full disk, which may have room again at the next one
            self._write(trainer, stage)

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """After the evaluation at the end, whose time and memory count."""
        self._write(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        if self._first_step_seconds is not None:
            with contextlib.suppress(OSError, MachineError):  # a full disk is what the exception may be about
                self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, stage: Any) -> None:
        if not trainer.is_global_zero:
            return
        seconds = time.perf_counter() - self._started
        names = {"train_loss": "train/loss", "val_bpb": "val/bpb", "val_loss": "val/loss"}
        names["tokens_per_second"] = "speed/tokens_per_second"
        facts = {field: stage.latest[name] for field, name in names.items() if name in stage.latest}
        if stage.counts_tokens:
            facts["tokens"] = trainer.global_step * stage.blueprint.horizon.total_batch_tokens
        if self._first_step_seconds is not None:  # none where a run goes on that has no step left
            facts["seconds_to_first_step"] = self._first_step_seconds
        peak = peak_memory_bytes(trainer.strategy.root_device.type)
        RunFolder(trainer.default_root_dir).write_summary(
            step=trainer.global_step,
            wall_seconds=self._before.get("wall_seconds", 0.0) + seconds,
            peak_memory_bytes=max(self._before.get("peak_memory_bytes", 0), peak),
            data=trainer.datamodule.counters(),  # type: ignore[attr-defined]
            **facts,
        )
