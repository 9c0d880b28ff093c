"""A step that takes many times as long as the others is looked into while it lasts: what the process is doing."""

import contextlib
import gc
import statistics
import time
from collections import deque
from collections.abc import Iterator
from typing import Annotated, Any

from lightning.pytorch import LightningModule, Trainer

from nanochat_pl.callbacks.cadence import stepped
from nanochat_pl.callbacks.hang_watch import Watch
from nanochat_pl.core.findings import Finding, announce
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.spec import Positive
from nanochat_pl.core.stacks import ADVICE, Thread, write_stacks

SHARE_STEPS = 10
"""Steps whose mean counts as one: a host that runs ahead of its device waits in few of them for all."""
SHARES = 20
IN_VALIDATION = 10
"""So many times as long may a batch of a validation take, or what follows it."""


class StuckWatch(Watch):
    """Writes the stacks of all threads to `stacks/stuck-step-N.rank-R.txt` and tells the likely cause; ends nothing.

    Args:
        times_median: what a step takes is that many times the median, beyond what the host may be ahead of its device.
        at_least_seconds: less is never stuck.
    """

    def __init__(
        self, times_median: Annotated[float, Positive] = 10.0, at_least_seconds: Annotated[float, Positive] = 20.0
    ) -> None:
        super().__init__()
        self._times, self._at_least_seconds = times_median, at_least_seconds
        self._means: deque[float] = deque(maxlen=SHARES)
        self._since: tuple[int, float] | None = None
        self._step, self._validating, self._collecting = 0, False, False
        self._told: float | None = None

    def on_train_start(self, trainer: Trainer, stage: LightningModule) -> None:
        self._step = trainer.global_step
        gc.callbacks.append(self._sees_collection)
        self.start(RunFolder(trainer.default_root_dir), trainer.global_rank, trainer.world_size)

    def on_train_batch_start(self, trainer: Trainer, stage: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._validating:
            self._validating, self._since = False, None
        self.mark()

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.mark()
        if not stepped(trainer):
            return
        self._step = trainer.global_step
        if self._since is None:  # the first step compiles
            self._since = (self._step, self.last)
        elif self._step - self._since[0] == SHARE_STEPS:
            self._means.append((self.last - self._since[1]) / SHARE_STEPS)
            self._since = (self._step, self.last)

    def on_validation_start(self, trainer: Trainer, stage: LightningModule) -> None:
        self._validating = True
        self.mark()

    def at_end(self, trainer: Trainer, stage: Any) -> None:
        super().at_end(trainer, stage)
        with contextlib.suppress(ValueError):
            gc.callbacks.remove(self._sees_collection)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        with super().paused():
            yield
        self._since = None

    def limit_seconds(self) -> float | None:
        """How long a step may take; None: not known yet."""
        if not self._means:
            return None
        usual = (SHARE_STEPS + self._times) * statistics.median(self._means)
        return max(self._at_least_seconds, usual) * (IN_VALIDATION if self._validating else 1)

    def watch(self, run: RunFolder, rank: int, world_size: int) -> None:
        while not self.ended.wait(min(1.0, self._at_least_seconds / 10)):
            limit, last = self.limit_seconds(), self.last
            seconds = time.monotonic() - last
            if limit is not None and seconds > limit and not self.pauses and self._told != last:
                self._told = last
                self._tell(run, rank, world_size, seconds)

    def _tell(self, run: RunFolder, rank: int, world_size: int, seconds: float) -> None:
        main = Thread.main(self._collecting)
        cause = main.cause(alone=world_size == 1)
        step = self._step + 1
        stacks = f"stacks/stuck-step-{step}.rank-{rank}.txt"
        write_stacks(run.path / stacks)
        if rank and cause == "collective":  # told by the one that it waits for
            return
        usual = statistics.median(self._means)
        announce(
            run,
            Finding(
                "stuck",
                step,
                f"Step {step} has taken {seconds:.2g} s so far, {seconds / usual:.0f} times as long as usual; "
                f"the likely cause: {cause}.",
                f"{ADVICE[cause]} The training goes on by itself if it can; all stacks are in {stacks}.",
                evidence={
                    "cause": cause,
                    "at": main.place,
                    "stacks": stacks,
                    "rank": rank,
                    "seconds": seconds,
                    "usual_seconds": usual,
                },
            ),
        )

    def _sees_collection(self, phase: str, info: dict[str, int]) -> None:
        self._collecting = phase == "start"
