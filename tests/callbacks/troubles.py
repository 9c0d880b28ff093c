"""Callbacks that bring trouble to a short run: `+callbacks.NAME._target_=tests.callbacks.troubles.CLASS`."""

import time
from typing import Any

from lightning.pytorch import Callback, Trainer


class Slow(Callback):
    """Rests when the given step begins."""

    def __init__(self, step: int, seconds: float):
        self._step, self._seconds = step, seconds

    def on_train_batch_start(self, trainer: Trainer, stage: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:
            time.sleep(self._seconds)
