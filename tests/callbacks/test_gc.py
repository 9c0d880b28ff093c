"""Garbage is collected at the interval and in validation, not in between; afterwards all is as it was."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from nanochat_pl.callbacks.gc import CollectGarbage
from tests.callbacks.test_evaluate import fit


class Cycle:
    """Refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


class Litter(Callback):
    """Drops a cycle in every step, and looks which are still there."""

    def __init__(self, fail_at: int | None = None) -> None:
        self._fail_at = fail_at
        self._dropped: list[weakref.ref] = []
        self.left: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, stage: Any, *rest: Any) -> None:
        assert not gc.isenabled()
        self.left.append(sum(cycle() is not None for cycle in self._dropped))
        self._dropped.append(weakref.ref(Cycle()))
        if trainer.global_step == self._fail_at:
            raise RuntimeError("planted")


def test_garbage_is_collected_at_the_interval_only(tmp_path: Path) -> None:
    litter = Litter()
    fit(tmp_path, CollectGarbage(every_n_steps=3), litter, steps=8)
    assert litter.left == [0, 1, 0, 1, 2, 0, 1, 2]  # collected before the third and the sixth look
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_it_goes_on_as_before_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="planted"):
        fit(tmp_path, CollectGarbage(), Litter(fail_at=2), steps=4)
    assert gc.isenabled() and gc.get_freeze_count() == 0
