"""Callbacks that do to a training what the world does: kill it, spoil its loss."""

import os
import shutil
import signal
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.core.findings import Finding, announce
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.evals import suites


class Kill(Callback):
    """Sends a signal to the own process when the given micro-batch (counted from 1 over the run) begins."""

    def __init__(self, micro_batch: int, signal_name: str = "SIGKILL"):
        self._micro_batch = micro_batch
        self._signal = signal.Signals[signal_name]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 == self._micro_batch:
            os.kill(os.getpid(), self._signal)


class KillLauncher(Kill):
    """The first process does it to the one that has started it."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.is_global_zero and trainer.fit_loop.epoch_loop.total_batch_idx + 1 == self._micro_batch:
            os.kill(os.getppid(), self._signal)


class Spoil(Callback):
    """Makes a weight NaN when the given step begins."""

    def __init__(self, step: int):
        self._step = step

    @torch.no_grad()
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:
            next(pl_module.parameters()).fill_(float("nan"))


class Nonsense(Callback):
    """Raises an error that nobody foresaw when the given step begins."""

    ends_training = True

    def __init__(self, step: int):
        self._step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:
            raise KeyError("this is nonsense")


class KillInSave(Callback):
    """Kills the own process when half of the given checkpoint (counted from 1) is written."""

    def __init__(self, checkpoint: int):
        self._left = checkpoint

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        save = torch.save

        def save_half(checkpoint: Any, path: Any) -> None:
            save(checkpoint, path)
            self._left -= 1
            if self._left == 0:
                os.truncate(path, os.path.getsize(path) // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        torch.save = save_half


class SmallDisk(Callback):
    """The disks of the runs and caches have so many bytes left."""

    def __init__(self, free_bytes: int):
        shutil.disk_usage = lambda path: shutil._ntuple_diskusage(1 << 50, (1 << 50) - free_bytes, free_bytes)


class SlowSave(Callback):
    """Every checkpoint takes so long at least."""

    def __init__(self, seconds: float):
        self._seconds = seconds

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        save = torch.save

        def save_slowly(*arguments: Any) -> None:
            time.sleep(self._seconds)
            save(*arguments)

        torch.save = save_slowly


class KillInEvaluation(Callback):
    """Sends a signal to the own process when the evaluation at the end begins."""

    def __init__(self, signal_name: str):
        self._signal = signal.Signals[signal_name]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        score_task = suites.score_task

        def score_and_kill(*arguments: Any, **options: Any) -> Any:
            os.kill(os.getpid(), self._signal)
            return score_task(*arguments, **options)

        suites.score_task = score_and_kill


class OnOneRank(Callback):
    """What happens to one of several processes when the given micro-batch (counted from 1) begins, unless it
    was started anew.

    Args:
        what: "hang": it does something else; "stop": nothing; "kill"; "fail": it raises; "spoil": its loss is NaN.
    """

    ends_training = True

    def __init__(self, rank: int, micro_batch: int, what: str):
        self._rank, self._micro_batch, self._what = rank, micro_batch, what

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        here = (trainer.global_rank, trainer.fit_loop.epoch_loop.total_batch_idx + 1)
        if here != (self._rank, self._micro_batch) or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
            return
        if self._what == "hang":
            time.sleep(1000)
        elif self._what == "fail":
            raise ValueError("a mishap on one rank")
        elif self._what == "spoil":
            pl_module._step_loss_sum.fill_(float("nan"))
        else:
            os.kill(os.getpid(), {"stop": signal.SIGSTOP, "kill": signal.SIGKILL}[self._what])


class FillMemory(Callback):
    """Fails as torch does where a GPU's memory is full, when the given step begins."""

    ends_training = True

    def __init__(self, step: int):
        self._step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


class Find(Callback):
    """Announces a finding at the given step."""

    def __init__(self, step: int):
        self._step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.is_global_zero and trainer.global_step == self._step:
            finding = Finding("loss_spike", self._step, "It is planted.", "Leave it.", "error")
            announce(RunFolder(trainer.default_root_dir), finding)
