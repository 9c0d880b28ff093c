"""What one process of a run wants, all must do at the same step: how they come to know."""

import math
import time

import torch
from lightning.pytorch import Trainer

EVERY_SECONDS = 0.5
"""How often they ask each other, about."""
MOST_STEPS = 100


class Agreement:
    """Asked after every optimizer step; the answer comes at steps that all processes know beforehand.

    These are so many that one comes about every EVERY_SECONDS, however long a step takes. They ask by way of their
    CPUs, so that no device is waited for.
    """

    def __init__(self) -> None:
        self._due_step = 0
        self._asked = (0, 0.0)

    def largest(self, trainer: Trainer, wanted: int) -> int:
        """The largest number that any process wants; 0 where they don't ask each other at this step.

        A process on its own gets what it wants at once.
        """
        if trainer.world_size == 1:
            return wanted
        step, now = trainer.global_step, time.monotonic()
        if step < self._due_step:
            return 0
        steps = max(1, step - self._asked[0])
        seconds_per_step = (now - self._asked[1]) / steps if self._asked[1] else EVERY_SECONDS
        asked = torch.tensor([float(wanted), seconds_per_step])
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        largest, slowest = asked.tolist()
        self._asked = (step, now)
        self._due_step = step + max(1, min(MOST_STEPS, math.ceil(EVERY_SECONDS / slowest)))
        return int(largest)
