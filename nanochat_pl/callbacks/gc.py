"""Python's garbage is collected where the training rests anyway, not in the middle of a step."""

import gc
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.callbacks.cadence import stepped
from nanochat_pl.core.errors import UserError


class CollectGarbage(Callback):
    """Switches automatic collection off while it trains.

    What is there after the first step stays, so later collections leave it out. A pause of one process is a pause of
    all that wait for it: they collect at the same steps.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        if every_n_steps < 1:
            raise UserError(f"callbacks.gc.every_n_steps is {every_n_steps}; it must be at least 1.")
        self._every_n_steps = every_n_steps
        self._was_enabled = False
        self._frozen = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._was_enabled = gc.isenabled()
        gc.disable()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not stepped(trainer):
            return
        if not self._frozen:
            gc.collect()
            gc.freeze()
            self._frozen = True
        elif trainer.global_step % self._every_n_steps == 0:
            gc.collect(1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gc.enable()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gc.collect()
        gc.disable()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._frozen:
            gc.unfreeze()
            self._frozen = False
        if self._was_enabled:
            gc.enable()
