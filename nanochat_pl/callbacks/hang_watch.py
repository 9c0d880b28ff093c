"""A training in which one process waits in vain for another is ended, and the one at fault is named."""

import contextlib
import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from nanochat_pl.callbacks.cadence import AtEnd
from nanochat_pl.core.distributed import Processes
from nanochat_pl.core.errors import EXIT_MACHINE, MachineError
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.stacks import Thread, write_stacks

LOOKS = 20
"""How often within the timeout the watch looks."""
ANSWERING_SECONDS = 2.0
"""So long at least, or the timeout / LOOKS, the processes have to say where they are: they notice a step apart."""


class Watch(AtEnd):
    """A thread that looks whether batches begin and end; `watch` is what it does, until `ended` is set."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.last = time.monotonic()
        self.pauses = 0

    def on_train_batch_start(self, trainer: Trainer, stage: LightningModule, batch: Any, batch_idx: int) -> None:
        self.mark()

    def on_validation_batch_start(self, *_: Any) -> None:
        self.mark()

    def on_validation_end(self, trainer: Trainer, stage: LightningModule) -> None:
        self.mark()

    def at_end(self, trainer: Trainer, stage: Any) -> None:
        self.ended.set()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is not watched."""
        self.pauses += 1
        try:
            yield
        finally:
            self.mark()
            self.pauses -= 1

    def mark(self) -> None:
        """Something has begun or ended."""
        self.last = time.monotonic()

    def start(self, *arguments: Any) -> None:
        """Watch in a thread from now on."""
        self.mark()
        threading.Thread(target=self.watch, args=arguments, name="watch", daemon=True).start()

    def watch(self, *arguments: Any) -> None:
        """In a thread."""
        raise NotImplementedError


class HangWatch(Watch):
    """A thread of each process, which ends it where no batch has begun or ended for so long.

    The stacks of all threads go to `stacks/rank-N.txt` in the run folder; one process says who keeps whom waiting. One
    that waits for another while it is paused ends by the process group's timeout.

    Args:
        timeout_seconds: longer than any single batch takes, with its data, or what follows a validation (samples, the
            model folder).
    """

    ends_training = True

    def __init__(self, processes: Processes, timeout_seconds: float):
        super().__init__()
        self._processes, self._timeout = processes, timeout_seconds
        self._answering = max(ANSWERING_SECONDS, timeout_seconds / LOOKS)
        self._batches, self._step = 0, 0

    def on_train_start(self, trainer: Trainer, stage: LightningModule) -> None:
        self._step = trainer.global_step
        folder = RunFolder(trainer.default_root_dir)
        if trainer.is_global_zero:
            shutil.rmtree(folder.path / "stacks", ignore_errors=True)
        self.start(folder)

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._batches, self._step = self._batches + 1, trainer.global_step
        self.mark()

    def watch(self, run: RunFolder) -> None:
        while not self.ended.wait(min(1.0, self._timeout / LOOKS)):
            if not self.pauses and time.monotonic() - self.last > self._timeout:
                self._give_up(run)

    def _give_up(self, run: RunFolder) -> None:
        """Say what is known, and end: the main thread waits in native code, which nothing else ends."""
        try:
            ThreadPoolExecutor(1).submit(self._explain, run).result(4 * self._answering)
        except Exception as error:
            print(
                f"\nRank {self._processes.place.rank} has begun or ended no batch for {self._timeout:.0f} s, after "
                f"step {self._step}, and could not ask the others ({type(error).__name__}: {error}): the first of them "
                "or its machine is gone. Run the same command again to go on from the last checkpoint.",
                file=sys.stderr,
                flush=True,
            )
        finally:
            os._exit(EXIT_MACHINE)

    def _explain(self, run: RunFolder) -> None:
        rank, world_size = self._processes.place.rank, self._processes.place.world_size
        folder = run.path / "stacks"
        write_stacks(folder / f"rank-{rank}.txt")
        where = {"host": socket.gethostname(), "pid": os.getpid(), "step": self._step, "batches": self._batches}
        main = Thread.main()
        self._processes.tell("stalled", json.dumps(where | {"waits": bool(main.waits_for(False)), "at": main.place}))
        if not self._processes.fails_first():
            time.sleep(self._answering)  # or the end of this one would be taken for the fault
            return
        deadline, told = time.monotonic() + self._answering, self._processes.told("stalled")
        while len(told) < world_size and time.monotonic() < deadline:
            time.sleep(min(0.5, self._answering / LOOKS))
            told = self._processes.told("stalled")
        answers = {one: json.loads(text) for one, text in told.items()}
        message = explanation(answers, world_size, self._timeout, folder)
        print(f"\n{message}", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError, MachineError):  # the disk is full
            run.write_summary(status="failed")
            run.record_event("hang", message=message)


@contextlib.contextmanager
def unwatched(trainer: Trainer) -> Iterator[None]:
    """What happens inside may take longer than a batch."""
    with contextlib.ExitStack() as pauses:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Watch):
                pauses.enter_context(callback.paused())
        yield


def explanation(told: dict[int, dict[str, Any]], world_size: int, timeout_seconds: float, stacks: Path) -> str:
    """One paragraph: who keeps the others waiting."""
    silent = [rank for rank in range(world_size) if rank not in told]
    behind = min(one["batches"] for one in told.values())
    late = [rank for rank, one in told.items() if one["batches"] == behind]
    busy = [rank for rank, one in told.items() if not one["waits"]]
    step = min(one["step"] for one in told.values())
    start = f"No process of this run has begun or ended a batch for {timeout_seconds:.0f} s, after step {step}. "
    if silent:
        fault = f"{_ranks(silent)} did not answer at all: stopped, stuck in native code, or its machine is gone. "
    elif len(late) < len(told):
        fault = f"{_ranks(late)} is behind the others. "
    elif 0 < len(busy) < len(told):
        fault = f"{_ranks(busy)} is busy with something else, and the others wait for it. "
    elif len({one["at"] for one in told.values()}) == 1:
        fault = "All are at the same place: a device or the network between them may be broken. "
    else:
        fault = "It does not show which one the others wait for. "
    places = " ".join(
        f"Rank {rank} ({one['host']}, process {one['pid']}) is at {one['at']}{' and waits' if one['waits'] else ''}."
        for rank, one in sorted(told.items())
    )
    return (
        f"{start}{fault}{places} All stacks are in {stacks}. Run the same command again to go on from the last "
        "checkpoint; where a batch may take longer than that, raise hw.timeout_seconds."
    )


def _ranks(ranks: list[int]) -> str:
    return f"Rank {', '.join(map(str, ranks))}"
