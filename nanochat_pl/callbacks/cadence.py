"""When something is due: the questions that all callbacks ask of the trainer."""

import contextlib
from typing import Any

from lightning.pytorch import Callback, Trainer

from nanochat_pl.core.errors import MachineError


class AtEnd(Callback):
    """Does something when the training ends, for whatever reason."""

    def at_end(self, trainer: Trainer, stage: Any) -> None:
        raise NotImplementedError

    def on_train_end(self, trainer: Trainer, stage: Any) -> None:
        self.at_end(trainer, stage)

    def on_exception(self, trainer: Trainer, stage: Any, exception: BaseException) -> None:
        with contextlib.suppress(OSError, MachineError):  # a full disk is what the exception may be about
            self.at_end(trainer, stage)


def stepped(trainer: Trainer) -> bool:
    """Whether the micro-batch that just ended completed an optimizer step."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0


def validation_due(trainer: Trainer) -> bool:
    """Whether validation follows right after this step."""
    every_n_steps = trainer.val_check_interval // trainer.accumulate_grad_batches
    return trainer.global_step % every_n_steps == 0 or finished(trainer)


def finished(trainer: Trainer) -> bool:
    """Whether this was the last step."""
    return trainer.global_step >= trainer.max_steps
