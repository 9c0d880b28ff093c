"""Checkpoints for resuming: at validations or every so many steps, and every so many minutes; the last n are kept."""

import logging
import math
import re
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from nanochat_pl.callbacks.agreement import Agreement
from nanochat_pl.callbacks.cadence import finished, stepped, validation_due
from nanochat_pl.callbacks.hang_watch import unwatched
from nanochat_pl.core.errors import DivergedError, UserError
from nanochat_pl.core.paths import replacing
from nanochat_pl.core.run_folder import RunFolder

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
        keep_last: how many to keep.
    """

    ends_training = True

    def __init__(self, every_n_steps: int | None = None, every_n_minutes: float | None = 10.0, keep_last: int = 3):
        super().__init__()
        for name, value in (("every_n_steps", every_n_steps), ("every_n_minutes", every_n_minutes)):
            if value is not None and value <= 0:
                raise UserError(f"callbacks.checkpoints.{name} is {value}; it must be positive, or null for never.")
        if keep_last < 1:
            raise UserError(f"callbacks.checkpoints.keep_last is {keep_last}; at least 1 is needed to resume.")
        self._every_n_steps = every_n_steps
        self._every_n_seconds = math.inf if every_n_minutes is None else 60 * every_n_minutes
        self._keep_last = keep_last
        self._saved_step = -1
        self._saved_time = time.monotonic()
        self._agreement = Agreement()

    def on_train_start(self, trainer: Trainer, stage: LightningModule) -> None:
        self._saved_step, self._saved_time = trainer.global_step, time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Where validation follows, its end is the place to save: a resume then has its metrics too.
        if stepped(trainer) and not validation_due(trainer) and self._due(trainer):
            self.save(trainer, stage)

    def on_validation_end(self, trainer: Trainer, stage: LightningModule) -> None:
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
            for old in step_checkpoints(folder)[self._keep_last :]:
                old.unlink()
        log.debug("saved %s", folder / f"step-{step:08d}.ckpt")

    def _due(self, trainer: Trainer) -> bool:
        if self._every_n_steps is not None and trainer.global_step % self._every_n_steps == 0:
            return True
        by_time = time.monotonic() - self._saved_time >= self._every_n_seconds
        return bool(self._agreement.largest(trainer, by_time))


def step_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    names = (path for path in folder.glob("step-*.ckpt") if re.fullmatch(r"step-\d+\.ckpt", path.name))
    return sorted(names, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint was written after."""
    return int(checkpoint.stem.removeprefix("step-"))


def point_last_to(checkpoint: Path) -> None:
    """Make `last.ckpt` a link to this checkpoint, at once."""
    temporary = checkpoint.parent / ".last.ckpt.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(checkpoint.name)
    temporary.replace(checkpoint.parent / "last.ckpt")


def resume_point(folder: Path) -> Path | None:
    """The newest checkpoint that can be read whole; newer damaged ones are reported and passed over.

    Makes `last.ckpt` point to it. None where there is no sound checkpoint.
    """
    for path in step_checkpoints(folder):
        if is_sound(path):
            point_last_to(path)
            return path
        log.warning("The checkpoint %s is damaged (cut short or overwritten); it is renamed and passed over.", path)
        path.rename(path.with_suffix(".damaged"))
    log.warning("There is no sound checkpoint in %s; training starts from the beginning.", folder)
    return None


def last_good(folder: Path) -> str:
    """A sentence that names the newest checkpoint, for messages about a run that failed."""
    newest = next(iter(step_checkpoints(folder)), None)
    if newest is None:
        return "There is no checkpoint yet."
    return f"The last good checkpoint is kept: {newest}."


def is_sound(path: Path) -> bool:
    """Whether the zip archive that torch wrote is complete and every checksum in it is right."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False
