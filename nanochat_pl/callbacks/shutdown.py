"""Signals to end: save at the next step boundary, then end with the code that tells which it was.

SIGINT is the user's, SIGTERM the system's, SIGUSR2 a queue's whose time for the job is nearly over.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.callbacks.agreement import Agreement
from nanochat_pl.callbacks.cadence import finished, stepped, validation_due
from nanochat_pl.callbacks.checkpoints import Checkpoints
from nanochat_pl.core.errors import Interrupted

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class SaveOnSignal(Callback):
    """Stands last among the callbacks, so that the others have done their part of the step.

    A second signal of the same kind ends at once, without saving. While the data are waited for in vain, there is no
    next boundary: the state of the last one is saved, if it is at hand.

    Attributes:
        received: the signal that came, to this process or another one of the run, for which training ends at the next
            boundary.

    Raises:
        Interrupted: at the step boundary after the signal, once the checkpoint is written.
    """

    ends_training = True

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._own: set[int] = set()  # those that came here; what came to another process may yet come
        self._before: dict[Any, Any] = {}
        self._interrupt_data: Callable[[BaseException], None] = lambda error: None
        self._no_data: Interrupted | None = None
        self._agreement = Agreement()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._interrupt_data = getattr(getattr(trainer, "datamodule", None), "interrupt", self._interrupt_data)
        if threading.current_thread() is threading.main_thread():
            self._before = {kind: signal.signal(kind, self._remember) for kind in ENDING}

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if stepped(trainer) and not validation_due(trainer):
            self._stop_if_asked(trainer, stage)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not finished(trainer):
            self._stop_if_asked(trainer, pl_module)

    def _stop_if_asked(self, trainer: Trainer, stage: LightningModule) -> None:
        if asked := self._agreement.largest(trainer, self.received or 0):
            self.received = signal.Signals(asked)
            saved = self._save(trainer, stage)
            raise Interrupted(
                f"Stopped by {self.received.name} after step {trainer.global_step}; {saved}",
                exit_code=128 + self.received,
            )

    def _save(self, trainer: Trainer, stage: Any) -> str:
        """What was done about the state, as the end of a sentence."""
        savers = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Checkpoints)]
        for callback in savers:
            callback.save(trainer, stage)
        if not savers:
            return "nothing is saved, since callbacks.checkpoints is switched off."
        return (
            f"the state is saved in {trainer.default_root_dir}/checkpoints. Run the same command again (without "
            "run.fresh=true) to go on."
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)
        self._before = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if exception is self._no_data and self.received is not None:
            # Between two steps, and all by itself: else it would wait for the others.
            if trainer.world_size == 1 and trainer.global_step and stepped(trainer) and not trainer.validating:
                saved = self._save(trainer, pl_module)
            else:
                saved = "it goes on from the last checkpoint when the same command is run again."
            exception.args = (
                f"Stopped by {self.received.name} after step {trainer.global_step}, while it waited for data; {saved}",
            )
        self.teardown(trainer, pl_module, "fit")

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number in self._own:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._own.add(number)
        self.received = signal.Signals(number)
        self._no_data = Interrupted(f"Stopped by {self.received.name}.", exit_code=128 + number)
        self._interrupt_data(self._no_data)
