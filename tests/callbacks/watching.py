"""Callbacks that tests put into train.py: `+callbacks.watch._target_=tests.callbacks.watching.CLASS`."""

import json
import traceback
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import Callback, Trainer
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat_pl.callbacks.cadence import finished

WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::equal")
"""Operators for which the host waits until a GPU has done all that it was told before."""
METHODS = ("tolist", "cpu", "numpy", "__array__")
"""Methods that wait, too, but on a CPU never reach the dispatcher."""


class HostSyncs(Callback):
    """Writes to `syncs.json` who, from the second step on, would have waited for a GPU, and how often."""

    ends_training = True

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._watch: Any = None
        self._patches: list[Any] = []

    def on_train_batch_end(self, trainer: Trainer, stage: Any, *rest: Any) -> None:
        if self._watch is None and trainer.global_step == 1:
            self._watch = _Watch(self._saw)
            self._watch.__enter__()
            for name in METHODS:
                self._patches.append(mock.patch.object(torch.Tensor, name, self._watched(name)))
                self._patches[-1].start()
        elif finished(trainer):  # before Lightning sets up the validation
            for patch in self._patches:
                patch.stop()
            self._watch.__exit__(None, None, None)
            told = {"steps": trainer.global_step - 1, "syncs": self._seen, "operators": self._watch.operators}
            (Path(trainer.default_root_dir) / "syncs.json").write_text(json.dumps(told))

    def _watched(self, name: str) -> Any:
        method = getattr(torch.Tensor, name)

        def called(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self._saw(f"Tensor.{name}")
            return method(tensor, *args, **kwargs)

        return called

    def _saw(self, what: str) -> None:
        frames = [f for f in traceback.extract_stack()[:-2] if "/torch/" not in f.filename and f.filename != __file__]
        self._seen[f"{what} in {Path(frames[-1].filename).name}"] += 1


class _Watch(TorchDispatchMode):
    def __init__(self, saw: Any) -> None:
        super().__init__()
        self._saw, self.operators = saw, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += 1
        name = function._schema.name
        by_mask = name == "aten::index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in WAITING or by_mask:
            self._saw(name)
        return function(*args, **(kwargs or {}))


class Buckets(Callback):
    """Fails where gradients lie outside DDP's buckets, of which a small model has one.

    Args:
        idle_step: of stage=rl, in which nothing is learned.
    """

    ends_training = True

    def __init__(self, idle_step: int | None = None):
        self._idle_step = idle_step
        self._before: list[torch.Tensor] = []

    def on_train_start(self, trainer: Trainer, stage: Any) -> None:
        self._see(stage)

    def on_after_backward(self, trainer: Trainer, stage: Any) -> None:
        self._see(stage)

    def on_before_optimizer_step(self, trainer: Trainer, stage: Any, optimizer: Any) -> None:
        if trainer.global_step == self._idle_step:
            stage._learns = False
            self._before = [p.detach().clone() for p in stage.parameters()]

    def on_train_batch_end(self, trainer: Trainer, stage: Any, *rest: Any) -> None:
        self._see(stage)
        if trainer.global_step - 1 == self._idle_step:
            assert all(map(torch.equal, self._before, stage.parameters()))
            print("Nothing was learned.")

    def on_validation_end(self, trainer: Trainer, stage: Any) -> None:
        self._see(stage)

    def _see(self, stage: Any) -> None:
        storages = {p.grad.untyped_storage().data_ptr() for p in stage.parameters()}
        assert len(storages) == 1, f"{len(storages)} storages hold the gradients"
