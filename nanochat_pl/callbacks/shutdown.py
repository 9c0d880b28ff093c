"""SIGTERM and SIGINT: save at the next step boundary, then end with the code that tells which it was."""

import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.callbacks.cadence import stepped
from nanochat_pl.callbacks.checkpoints import Checkpoints
from nanochat_pl.core.errors import Interrupted


class SaveOnSignal(Callback):
    """A second signal of the same kind ends at once, without saving.

    Raises:
        Interrupted: at the step boundary after the signal, once the checkpoint is written.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, stage: LightningModule) -> None:
        # After Lightning has installed its own, which ends without saving and with exit code 0.
        if threading.current_thread() is threading.main_thread():
            self._before = {kind: signal.signal(kind, self._remember) for kind in (signal.SIGTERM, signal.SIGINT)}

    def on_train_batch_end(
        self, trainer: Trainer, stage: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._received is not None and stepped(trainer):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, Checkpoints):
                    callback.save(trainer, stage)
            raise Interrupted(
                f"Stopped by {self._received.name} after step {trainer.global_step}; the state is saved in "
                f"{trainer.default_root_dir}/checkpoints. The same command goes on from there.",
                exit_code=128 + self._received,
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)
        self._before = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and self._received == number:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._received = signal.Signals(number)
