"""Several tasks in one shuffled order without end, in which every place can be computed at once."""

import bisect
import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from nanochat_pl.core.errors import UserError
from nanochat_pl.tasks.task import Task, digest
from nanochat_pl.tokenizers.chat import Message


class Place(NamedTuple):
    """Example `i` of a task; of the `task` with this number in the mixture."""

    task: int
    i: int


class Mixture:
    """Conversations of several tasks, shuffled anew in every epoch of the mixture; nothing needs to be saved to go on.

    Args:
        parts: each task with its epochs: how often its examples occur in one epoch of the mixture. 0.5 takes one half
            of them in this epoch and the other half in the next, 2 takes all of them twice.
        seed: decides the order.

    Raises:
        UserError: no task, an empty one, or epochs that are not above 0.
    """

    def __init__(self, parts: Sequence[tuple[Task, float]], seed: int = 0):
        if not parts:
            raise UserError(
                "No task is named. Choose a mixture with tasks= (chat_mid, chat_sft, or custom with tasks.path=FILE), "
                "or list tasks under tasks.train and tasks.val."
            )
        for task, epochs in parts:
            if not len(task):
                raise UserError(f"The task {task.name} has no examples (see its start, stop and path).")
            if not 0 < epochs < math.inf:
                raise UserError(f"The epochs of the task {task.name} are {epochs}; they must be above 0, and finite.")
        self.tasks = [task for task, _ in parts]
        self.counts = [max(1, round(epochs * len(task))) for task, epochs in parts]
        """Examples of each task in one epoch of the mixture."""
        self._ends = list(itertools.accumulate(self.counts))
        self.seed = seed

    def __len__(self) -> int:
        """Conversations in one epoch."""
        return self._ends[-1]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes when the conversations or their order do."""
        return digest(self.seed, [(task.fingerprint, count) for task, count in zip(self.tasks, self.counts)])

    def place(self, n: int) -> Place:
        """Which example comes as number `n` (>= 0) of the run; after `len(self)` of them the next epoch begins."""
        epoch, position = divmod(n, len(self))
        ticket = shuffled_index(position, len(self), self.seed, epoch)
        task = bisect.bisect_right(self._ends, ticket)
        nth = ticket - (self._ends[task] - self.counts[task])
        return Place(task, (epoch * self.counts[task] + nth) % len(self.tasks[task]))

    def conversation(self, n: int) -> list[Message]:
        """Conversation number `n` of the run."""
        place = self.place(n)
        return self.tasks[place.task].conversation(place.i)


_ROUNDS = 6
_MASK_64 = (1 << 64) - 1


def shuffled_index(i: int, n: int, *key: int) -> int:
    """Where position `i` of a random order of 0..n-1 points: a permutation for each key, without a table.

    A Feistel network over the next even power of two, walked until it lands within n (Black & Rogaway, "Ciphers with
    arbitrary finite domains", 2002), with splitmix64's mixing as the round function.
    """
    half_bits = max(3, ((n - 1).bit_length() + 1) // 2)
    half_mask = (1 << half_bits) - 1
    keys = [_mixed_key(round_, key) for round_ in range(_ROUNDS)]
    while True:
        left, right = i >> half_bits, i & half_mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right ^ round_key) & half_mask)
        i = left << half_bits | right
        if i < n:
            return i


def _mixed_key(round_: int, key: tuple[int, ...]) -> int:
    state = round_
    for part in key:
        state = _mix(state ^ (part & _MASK_64))
    return state


def _mix(word: int) -> int:
    word = (word + 0x9E3779B97F4A7C15) & _MASK_64
    word = ((word ^ word >> 30) * 0xBF58476D1CE4E5B9) & _MASK_64
    word = ((word ^ word >> 27) * 0x94D049BB133111EB) & _MASK_64
    return word ^ word >> 31
