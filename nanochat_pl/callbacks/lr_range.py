"""A learning rate range test: the loss over rates that rise, until it explodes (Smith, arXiv 1506.01186)."""

import json
import logging
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from lightning.pytorch import Trainer

from nanochat_pl.callbacks.cadence import AtEnd, stepped
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import write_text
from nanochat_pl.core.picture import DARK, PALE, THIRD, picture
from nanochat_pl.core.spec import Positive

log = logging.getLogger(__name__)

SETTLING = 10
"""Steps until the smoothed loss says something."""
LEAST_FALL = 0.1
"""Of the first loss: it explodes from there on where it has fallen by less."""


class LRRange(AtEnd):
    """Ends the training when the loss explodes; leaves lr_range.png and lr_range.json.

    Suggests the rate at which the loss falls fastest. Goes with schedule=range; nothing is validated, for the model is
    ruined.

    Args:
        stop_at: the loss explodes when it has risen again by this share of its fall, both smoothed.
        smoothing: weight of what was before in the running mean of the losses.
    """

    ends_training = True

    def __init__(self, stop_at: Annotated[float, Positive] = 0.75, smoothing: float = 0.9) -> None:
        if not 0 <= smoothing < 1:
            raise UserError(f"callbacks.lr_range.smoothing is {smoothing}; it must be from 0 to below 1.")
        self.stop_at, self.smoothing = stop_at, smoothing
        self._rates: list[float] = []
        self._losses: list[float] = []
        self._smoothed: list[float] = []
        self._running = 0.0

    def on_train_start(self, trainer: Trainer, stage: Any) -> None:
        trainer.limit_val_batches = 0

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not stepped(trainer):
            return
        loss = stage.mean_step_loss().item()
        if math.isfinite(loss):
            schedule: Any = trainer.lr_scheduler_configs[0].scheduler
            self._rates.append(stage.blueprint.horizon.lr_scale * schedule.multiplier_at(trainer.global_step - 1))
            self._losses.append(loss)
            self._running += (1 - self.smoothing) * (loss - self._running)
            self._smoothed.append(self._running / (1 - self.smoothing ** len(self._losses)))
        elif not self._losses:
            log.warning(
                "The first step's loss is %s already, so there is no range to test: it is no matter of the rate.", loss
            )
        if not math.isfinite(loss) or self._explodes():
            trainer.should_stop = True

    def _explodes(self) -> bool:
        first, lowest, last = self._losses[0], min(self._smoothed), self._smoothed[-1]
        return last - lowest > self.stop_at * max(first - lowest, LEAST_FALL * first)

    def at_end(self, trainer: Trainer, stage: Any) -> None:
        if trainer.is_global_zero and self._losses:
            self._tell(Path(trainer.default_root_dir))

    def _tell(self, folder: Path) -> None:
        best = steepest(self._rates, self._smoothed)
        result = {"lr_scale": best and self._rates[best], "steps": len(self._rates)}
        write_text(folder / "lr_range.json", json.dumps(result, indent=2) + "\n")
        self._draw(folder / "lr_range.png", best)
        if best is None:
            log.warning("The loss never fell; lower schedule.lowest. %s", folder / "lr_range.png")
        else:
            log.info("The loss falls fastest at horizon.lr_scale=%.3g (lr_range.png).", self._rates[best])

    def _draw(self, path: Path, best: int | None) -> None:
        with picture(path, 7, 4) as axes:
            axes.semilogx(self._rates, self._losses, color=PALE, linewidth=1, label="training loss")
            axes.semilogx(self._rates, self._smoothed, color=DARK, label="smoothed")
            if best is not None:
                rate = self._rates[best]
                axes.axvline(rate, color=THIRD, linestyle="--", label=f"steepest: {rate:.3g}")
            axes.set(xlabel="horizon.lr_scale, the factor on all learning rates", ylabel="nats per token")
            axes.set_ylim(top=1.5 * self._losses[0])
            axes.legend()


def steepest(rates: list[float], losses: list[float]) -> int | None:
    """Where the loss falls fastest over the logarithm of the rate, before it is lowest; None: it does not fall."""
    end = int(np.argmin(losses)) + 1
    if end < SETTLING + 2:
        return None
    slopes = np.gradient(losses[SETTLING:end], np.log(rates[SETTLING:end]))
    return SETTLING + int(np.argmin(slopes)) if slopes.min() < 0 else None
