"""How many answers are right: of the held-out equations, and of a batch that is trained on."""

import itertools
import math
from typing import Any

import torch
from lightning.pytorch import Trainer

from nanochat_pl.callbacks.cadence import AtEnd
from nanochat_pl.core.picture import DARK, PALE, THIRD, picture
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.types import StepBatch
from nanochat_pl.evals.answer_accuracy import AnswerAccuracy


class Accuracy(AtEnd):
    """Logs `val/accuracy` (where answers differ in length, also `val/accuracy_N`, of those with N tokens) and
    `train/accuracy` (of the batch before the validation), and draws accuracy.png.

    For data that mark what is learned; the model reads each batch once more, and all logits are kept at once.
    """

    def __init__(self) -> None:
        self._validation, self._training = AnswerAccuracy(), AnswerAccuracy()
        self._newest: StepBatch | None = None

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: StepBatch, batch_idx: int) -> None:
        self._newest = batch

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: Trainer, stage: Any, outputs: Any, batch: StepBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._count(self._validation, stage, batch)

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, stage: Any) -> None:
        metrics = {}
        if self._newest is not None:
            self._count(self._training, stage, self._newest)
            metrics["train/accuracy"] = self._training.compute()[0].item()
        share, by_length = self._validation.compute()
        metrics["val/accuracy"] = share.item()
        lengths = [length for length, share in enumerate(by_length.tolist()) if not math.isnan(share)]
        if len(lengths) > 1:
            metrics |= {f"val/accuracy_{length}": by_length[length].item() for length in lengths}
        stage.latest.update(metrics)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
        self._training.reset()
        self._validation.reset()

    def at_end(self, trainer: Trainer, stage: Any) -> None:
        if trainer.is_global_zero:
            draw_accuracy(RunFolder(trainer.default_root_dir))

    @staticmethod
    def _count(metric: AnswerAccuracy, stage: Any, batch: StepBatch) -> None:
        metric.to(batch.inputs.device).update(stage.model.forward(batch.inputs), batch.targets)


def draw_accuracy(run: RunFolder) -> None:
    """Draw the accuracies of metrics.csv over the steps; nothing where there are none yet."""
    metrics = {name: points for name, points in run.read_metrics().items() if "/accuracy" in name}
    if "val/accuracy" not in metrics:
        return
    colours = {"train/accuracy": PALE, "val/accuracy": DARK}
    others = itertools.cycle([THIRD, "#5b8c5a", "#8c5b8c", "#b59f3b", "#4aa3a2", "#777777"])
    with picture(run.path / "accuracy.png", 7, 4) as axes:
        for name, points in sorted(metrics.items()):
            width = 2 if name in colours else 1
            axes.plot(*zip(*points), color=colours.get(name) or next(others), linewidth=width, label=name)
        axes.set(xscale="log", xlabel="optimizer step", ylabel="share of right answers", ylim=(-0.02, 1.02))
        axes.set_title(run.path.parent.name, parse_math=False)
        axes.legend()
