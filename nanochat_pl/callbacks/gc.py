"""Python's garbage is collected where the training rests anyway, not in the middle of a step."""

import gc
from typing import Annotated, Any

from lightning.pytorch import Trainer

from nanochat_pl.callbacks.cadence import AtEnd, stepped
from nanochat_pl.core.spec import AtLeast


class CollectGarbage(AtEnd):
    """Switches automatic collection off while it trains.

    What is there after the first step stays, so later collections leave it out. A pause of one process is a pause of
    all that wait for it: they collect at the same steps.
    """

    def __init__(self, every_n_steps: Annotated[int, AtLeast(1)] = 10) -> None:
        self._every_n_steps = every_n_steps
        self._was_enabled = False
        self._frozen = False

    def on_train_start(self, trainer: Trainer, stage: Any) -> None:
        self._was_enabled = gc.isenabled()
        gc.disable()

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not stepped(trainer):
            return
        if not self._frozen:
            gc.collect()
            gc.freeze()
            self._frozen = True
        elif trainer.global_step % self._every_n_steps == 0:
            gc.collect(1)

    def on_validation_start(self, trainer: Trainer, stage: Any) -> None:
        gc.enable()

    def on_validation_end(self, trainer: Trainer, stage: Any) -> None:
        gc.collect()
        gc.disable()

    def at_end(self, trainer: Trainer, stage: Any) -> None:
        if self._frozen:
            gc.unfreeze()
            self._frozen = False
        if self._was_enabled:
            gc.enable()
