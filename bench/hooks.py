"""Lightning callbacks that measurements put into train.py: `+callbacks.NAME._target_=hooks.CLASS`."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from gpu_trace import GpuTrace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import SimpleProfiler
from timing import parent

from nanochat_pl.callbacks.cadence import stepped
from nanochat_pl.callbacks.summary import peak_memory_bytes
from nanochat_pl.callbacks.timeline import Timeline
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.models.cost import ModelCost


class Pace(Callback):
    """Tells the parent when the first step is done; then trains as many steps as it asks for, and tells the seconds.

    On a GPU, which it shares with others that take turns, it gives back the memory that only a step needs before it
    rests, and the step that takes it again is not counted.
    """

    def __init__(self) -> None:
        self._parent = parent()
        self._left = 1
        self._uncounted = False
        self._since = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not stepped(trainer):
            return
        on_gpu = stage.device.type == "cuda"
        if self._uncounted:
            torch.cuda.synchronize()
            self._uncounted = False
            self._since = time.perf_counter()
            return
        self._left -= 1
        if self._left == 0:
            if on_gpu:
                torch.cuda.synchronize()
            self._parent.send(time.perf_counter() - self._since)
            if on_gpu:
                torch.cuda.empty_cache()
            self._left, self._uncounted = self._parent.recv(), on_gpu
            self._since = time.perf_counter()


class Intervals(Callback):
    """Takes the time of intervals of steps, and where it went; writes both to a JSON file and ends the training.

    The steps before, which compile and warm up, are left out: as many as an interval has. On an NVIDIA GPU the step
    after the last interval is traced. Each process of a run takes the time, the first one tells it.

    Args:
        path: of the file.
        every_n_steps: of an interval; where the metrics are logged as often, nothing waits for the device within it.
    """

    def __init__(self, path: str, every_n_steps: int, intervals: int) -> None:
        self._path, self._every_n_steps, self._left = Path(path), every_n_steps, intervals
        self._seconds: list[dict[str, dict[str, float]]] = []
        self._timeline: Timeline | None = None
        self._trace: GpuTrace | None = None

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not stepped(trainer):
            return
        if self._left == 0:
            self._end(trainer, stage)
        elif trainer.global_step % self._every_n_steps == 0:
            device = trainer.strategy.root_device
            if self._timeline is None:
                trainer.profiler = self._timeline = Timeline(device)
                return
            self._seconds.append(self._timeline.cut())
            self._left -= 1
            if self._left == 0 and device.type == "cuda":
                self._trace = GpuTrace()
            elif self._left == 0:
                self._end(trainer, stage)

    def _end(self, trainer: Trainer, stage: Any) -> None:
        device = trainer.strategy.root_device
        busy_seconds = self._trace.busy_seconds() if self._trace else None
        if trainer.is_global_zero:
            facts = {
                "seconds": self._seconds,
                "busy_seconds": busy_seconds,
                "peak_bytes": peak_memory_bytes(device),
                "reserved_bytes": torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None,
                "flops_per_token": ModelCost(stage.blueprint.model).training_flops_per_token,
                "plan": json.loads(RunFolder(trainer.default_root_dir).resolved.read_text(encoding="utf-8")),
            }
            self._path.write_text(json.dumps(facts), encoding="utf-8")
        trainer.limit_val_batches = 0  # or Lightning would validate once more
        trainer.should_stop = True


class Shares(Callback):
    """Tells the parent, when the training ends, the seconds of all steps but the first, of waiting for batches in them,
    and of the model's forward and backward passes.
    """

    def __init__(self) -> None:
        self._parent = parent()
        self._profiler = SimpleProfiler()
        self._since = 0.0

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._since or not stepped(trainer):
            return
        trainer.profiler = self._profiler
        forward, profiler = stage.model.forward, self._profiler

        def timed(*args: Any, **kwargs: Any) -> Any:
            with profiler.profile("forward"):
                return forward(*args, **kwargs)

        build = stage.model.build_decoder

        def build_timed() -> Any:
            decode = build()

            def timed_decode(*args: Any) -> Any:
                with profiler.profile("forward"):
                    return decode(*args)

            return timed_decode

        stage.model.forward, stage.model.build_decoder = timed, build_timed
        self._since = time.perf_counter()

    def on_train_end(self, trainer: Trainer, stage: Any) -> None:
        total = time.perf_counter() - self._since
        seconds = {name: sum(durations) for name, durations in self._profiler.recorded_durations.items()}
        model = sum(value for name, value in seconds.items() if name == "forward" or name.endswith("Strategy.backward"))
        waiting = sum(value for name, value in seconds.items() if name.endswith("train_dataloader_next"))
        self._parent.send((total, waiting, model))


class Validations(Callback):
    """Tells the parent the step and the loss of every validation."""

    def __init__(self) -> None:
        self._parent = parent()

    def on_validation_end(self, trainer: Trainer, stage: Any) -> None:
        self._parent.send((trainer.global_step, stage.latest["val/loss"]))

    def on_fit_end(self, trainer: Trainer, stage: LightningModule) -> None:
        self._parent.send(None)


class Tax(Callback):
    """Trains by turns under the Trainer and in a bare loop over the same model, optimizer, schedule and loader.

    Sends the parent the seconds of each turn, (under the Trainer, bare), and at the end None.
    """

    def __init__(self, micro_batches: int, repetitions: int) -> None:
        self._parent = parent()
        self._micro_batches, self._repetitions = micro_batches, repetitions
        self._seen, self._since = -micro_batches, 0.0
        self._batches: Any = None

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._seen += 1
        if self._seen == 0:  # warm now
            self._batches = iter(trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
            self._bare(trainer, stage)
        if self._seen > 0 and self._seen % self._micro_batches == 0 and stepped(trainer):
            under_trainer = time.perf_counter() - self._since
            self._parent.send((under_trainer, self._bare(trainer, stage)))
            self._repetitions -= 1
            trainer.should_stop = self._repetitions == 0
            if trainer.should_stop:
                self._parent.send(None)
        if self._seen % self._micro_batches == 0:
            self._since = time.perf_counter()

    def _bare(self, trainer: Trainer, stage: Any) -> float:
        """Seconds of as many micro-batches in a loop of our own."""
        optimizer, accumulation = trainer.optimizers[0], trainer.accumulate_grad_batches
        schedule = trainer.lr_scheduler_configs[0].scheduler
        scale = 1 / stage.blueprint.horizon.total_batch_tokens
        began = time.perf_counter()
        for number in range(1, self._micro_batches + 1):
            loss = stage.loss(next(self._batches)) * scale
            loss.backward()
            if number % accumulation == 0:
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        return time.perf_counter() - began


class Turns(Callback):
    """Trains by turns with all callbacks, and with those alone that may end the training; loggers go with the others.

    Sends the parent the seconds of each pair of turns, (with all, with the few), and at the end None.

    Args:
        steps: of one turn; a multiple of the log interval, at whose end nothing is left to wait for.
    """

    ends_training = True

    def __init__(self, steps: int, repetitions: int) -> None:
        self._parent = parent()
        self._steps, self._repetitions = steps, repetitions
        self._since = 0.0
        self._all: list[Any] = []
        self._loggers: list[Any] = []
        self._with_all = 0.0

    def on_train_batch_end(self, trainer: Any, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not stepped(trainer) or trainer.global_step % self._steps:
            return
        seconds = time.perf_counter() - self._since
        if not self._all:  # the first turn, which warms up
            self._all, self._loggers = trainer.callbacks, trainer.loggers
        elif trainer.callbacks is self._all:
            self._with_all = seconds
            trainer.callbacks = [one for one in self._all if getattr(one, "ends_training", False)]
            trainer.loggers = []
        else:
            self._parent.send((self._with_all, seconds))
            trainer.callbacks, trainer.loggers = self._all, self._loggers
            self._repetitions -= 1
            if self._repetitions == 0:
                self._parent.send(None)
                trainer.should_stop, trainer.limit_val_batches = True, 0
        self._since = time.perf_counter()
