"""Checkpoints for resuming: at validations or every so many steps, and every so many minutes; the last n are kept."""

import logging
import math
import time
from pathlib import Path
from typing import Annotated, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from nanochat_pl.callbacks.agreement import Agreement
from nanochat_pl.callbacks.cadence import finished, stepped, validation_due
from nanochat_pl.callbacks.hang_watch import unwatched
from nanochat_pl.checkpoint.saved import Keep, point_last_to, step_checkpoints, step_of
from nanochat_pl.core.errors import DivergedError
from nanochat_pl.core.paths import replacing
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.spec import AtLeast, Positive

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, fsyncs, and replaces: a checkpoint is complete or absent."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Mapped, not read: every process of a run needs a part of it only."""
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


class Checkpoints(Checkpoint):
    """Writes `checkpoints/step-00001000.ckpt`, and `last.ckpt` as a link to the newest.

    Args:
        every_n_steps: None writes at every validation.
        every_n_minutes: None writes by steps only.
        keep_last: how many of the newest to keep.
        keep_best: and how many with the lowest validation bits per byte, of those written at a validation.
        keep_every_n_steps: and those whose step is a multiple of it.
        budget_gigabytes: what all together may take; the newest is kept in any case.
    """

    ends_training = True

    def __init__(
        self,
        every_n_steps: Annotated[int | None, AtLeast(1)] = None,
        every_n_minutes: Annotated[float | None, Positive] = 10.0,
        keep_last: Annotated[int, AtLeast(1)] = 3,
        keep_best: Annotated[int | None, AtLeast(1)] = None,
        keep_every_n_steps: Annotated[int | None, AtLeast(1)] = None,
        budget_gigabytes: Annotated[float | None, Positive] = None,
    ):
        super().__init__()
        budget_bytes = None if budget_gigabytes is None else math.floor(budget_gigabytes * 1e9)
        self.keep = Keep(keep_last, keep_best or 0, keep_every_n_steps, budget_bytes)
        self._every_n_steps = every_n_steps
        self._every_n_seconds = math.inf if every_n_minutes is None else 60 * every_n_minutes
        self._val_bpb: dict[int, float] = {}
        self._saved_step = -1
        self._saved_time = time.monotonic()
        self._agreement = Agreement()

    def on_train_start(self, trainer: Trainer, stage: LightningModule) -> None:
        self._saved_step, self._saved_time = trainer.global_step, time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Where validation follows, its end is the place to save: a resume then has its metrics too.
        if stepped(trainer) and not validation_due(trainer) and self._due(trainer):
            self.save(trainer, stage)

    def on_validation_end(self, trainer: Trainer, stage: Any) -> None:
        if self.keep.best and "val/bpb" in stage.latest:
            self._val_bpb[trainer.global_step] = stage.latest["val/bpb"]
        if self._every_n_steps is None or self._due(trainer) or finished(trainer):
            self.save(trainer, stage)

    def save(self, trainer: Trainer, stage: Any) -> None:
        """Write a checkpoint of the step that just ended, unless there is one.

        Raises:
            DivergedError: its loss or its weights are not finite.
            MachineError: the disk is full; the earlier checkpoints are untouched.
        """
        step = trainer.global_step
        if step == self._saved_step:
            return
        if not (stage.mean_step_loss().isfinite() and all(weight.isfinite().all() for weight in stage.parameters())):
            raise DivergedError(f"The loss or the weights are not finite after step {step}.")
        for logger in trainer.loggers:
            logger.save()  # a checkpoint's metrics must not be lost where the checkpoint is not
        folder = RunFolder(trainer.default_root_dir).checkpoints
        with unwatched(trainer):  # the disk may be slow
            trainer.save_checkpoint(folder / f"step-{step:08d}.ckpt")
        self._saved_step, self._saved_time = step, time.monotonic()
        if trainer.is_global_zero:
            point_last_to(folder / f"step-{step:08d}.ckpt")
            self._remove_old(folder)
        log.debug("saved %s", folder / f"step-{step:08d}.ckpt")

    def state_dict(self) -> dict[str, Any]:
        """Bits per byte at the steps so far, by which the best are known after a resume too."""
        return {"val_bpb": dict(self._val_bpb)} if self.keep.best else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._val_bpb = dict(state_dict.get("val_bpb", {}))

    def _remove_old(self, folder: Path) -> None:
        there = {step_of(path): path for path in step_checkpoints(folder)}
        kept = self.keep.chosen({step: path.stat().st_size for step, path in there.items()}, self._val_bpb)
        for step, path in there.items():
            if step not in kept:
                path.unlink()

    def _due(self, trainer: Trainer) -> bool:
        if self._every_n_steps is not None and trainer.global_step % self._every_n_steps == 0:
            return True
        by_time = time.monotonic() - self._saved_time >= self._every_n_seconds
        return bool(self._agreement.largest(trainer, by_time))
