"""Callbacks that bring trouble to a short run: `+callbacks.NAME._target_=tests.callbacks.troubles.CLASS`."""

import os
import resource
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from nanochat_pl.callbacks.cadence import stepped


class Faulty(Callback):
    """Raises an error when the given step begins, and whenever it is asked again."""

    def __init__(self, step: int):
        self._step = step

    def on_train_batch_start(self, trainer: Trainer, stage: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= self._step:
            raise KeyError(f"nonsense at step {trainer.global_step}")


class BadBatch(Callback):
    """The targets of the given step are drawn by lot."""

    def __init__(self, step: int):
        self._step = step

    def on_train_batch_start(self, trainer: Trainer, stage: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step - 1:
            batch.targets.copy_(torch.randint_like(batch.targets, 256))


class Bump(Callback):
    """Multiplies the learning rate of some steps."""

    def __init__(self, first: int, last: int, factor: float):
        self._first, self._last, self._factor = first, last, factor

    def on_before_optimizer_step(self, trainer: Trainer, stage: Any, optimizer: Any) -> None:
        if self._first <= trainer.global_step + 1 <= self._last:
            for group in optimizer.param_groups:
                group["lr"] *= self._factor


class SlowData(Callback):
    """The data of the given step come late."""

    def __init__(self, step: int, seconds: float):
        self._step, self._seconds = step, seconds

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        batches_from = data._batches_from

        def late(rows: Any) -> Any:
            for n, batch in enumerate(batches_from(rows), 1):
                if n == self._step:
                    time.sleep(self._seconds)
                yield batch

        data._batches_from = late


class FullDisk(Callback):
    """After the given step no file may grow beyond metrics.csv as it then is, until after another step."""

    def __init__(self, first: int, last: int):
        self._first, self._last = first, last

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        if stepped(trainer) and trainer.global_step == self._first:
            size = os.path.getsize(Path(trainer.default_root_dir) / "metrics.csv")
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, most))
        if stepped(trainer) and trainer.global_step == self._last:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
