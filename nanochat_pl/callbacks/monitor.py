"""The monitor: looks at what is logged, says what is wrong and what to do, and how long it will take."""

import logging
import time
from datetime import datetime, timedelta
from typing import Annotated, Any

from lightning.pytorch import Callback, Trainer

from nanochat_pl.callbacks.cadence import finished, stepped
from nanochat_pl.callbacks.detectors.panel import Panel, Reading
from nanochat_pl.callbacks.metrics import logs_after
from nanochat_pl.core.chips import device_name
from nanochat_pl.core.errors import DivergedError
from nanochat_pl.core.findings import announce, read_findings
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.spec import AtLeast

log = logging.getLogger(__name__)

WORTH_TELLING_SECONDS = 60


class Monitor(Callback):
    """Tells loss spikes, losses that are no number, divergence, plateaus, slow steps, waiting for data, memory that
    grows, and gradients and updates that are unusual for their role; each once, until it is over.

    Stands after the metrics, which have read everything: it costs no sync. At each validation it says how long the rest
    will take. The first process does it.

    Args:
        price_per_hour: of all devices together, in any currency; None: cost is not told.
    """

    def __init__(self, price_per_hour: Annotated[float | None, AtLeast(0)] = None) -> None:
        self._price_per_hour = price_per_hour
        self._panel: Panel | None = None
        self._saved: dict[str, Any] = {}
        self._devices = ""
        self._told: set[tuple[str, int]] = set()
        self._seen_step = -1
        self._is_first = True
        self._began = (0, 0.0)
        self._seconds_before = 0.0

    def on_train_start(self, trainer: Trainer, stage: Any) -> None:
        self._panel = Panel(judges_loss=stage.counts_tokens)
        self._devices = f"{trainer.world_size} x {device_name(trainer.strategy.root_device.type)}"
        detectors = dict(self._saved.get("detectors", {}))
        if self._saved.get("devices") != self._devices:  # on others, another speed is usual
            detectors.pop("slow_steps", None)
        self._panel.load_state_dict(detectors)
        told = read_findings(RunFolder(trainer.default_root_dir))
        self._told = {(finding.kind, finding.step) for finding in told}
        self._seconds_before = self._saved.get("seconds", 0.0)
        self._began = (trainer.global_step, time.perf_counter())

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_global_zero and stepped(trainer) and logs_after(trainer, trainer.global_step):
            self._see(trainer, stage)

    def on_exception(self, trainer: Trainer, stage: Any, exception: BaseException) -> None:
        if not trainer.is_global_zero or not isinstance(exception, DivergedError) or self._panel is None:
            return
        if logs_after(trainer, trainer.global_step) and self._seen_step != trainer.global_step:
            self._see(trainer, stage)  # the metrics have ended the training before it was this one's turn

    def on_validation_end(self, trainer: Trainer, stage: Any) -> None:
        step, (first, began) = trainer.global_step, self._began
        if not trainer.is_global_zero or finished(trainer) or step <= first:
            return
        seconds = time.perf_counter() - began
        left = seconds / (step - first) * (trainer.max_steps - step)
        if left < WORTH_TELLING_SECONDS and self._price_per_hour is None:
            return
        text = f"about {timedelta(seconds=round(left))} left, until {datetime.now() + timedelta(seconds=left):%a %H:%M}"
        if self._price_per_hour is not None:
            so_far = (self._seconds_before + seconds) / 3600 * self._price_per_hour
            text += f"; cost {so_far:.2f} so far, {so_far + left / 3600 * self._price_per_hour:.2f} at the end"
        log.info("step %d/%d: %s", step, trainer.max_steps, text)

    def state_dict(self) -> dict[str, Any]:
        if self._panel is None:
            return self._saved
        seconds = self._seconds_before + time.perf_counter() - self._began[1]
        return {"detectors": self._panel.state_dict(), "devices": self._devices, "seconds": seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict

    def _see(self, trainer: Trainer, stage: Any) -> None:
        step, losses, metrics = trainer.global_step, stage.recent_losses, stage.latest
        speed, seconds = metrics.get("speed/tokens_per_second"), None
        if speed is not None and not self._is_first:
            seconds = len(losses) * stage.blueprint.horizon.total_batch_tokens / speed
        self._seen_step, self._is_first = step, False
        assert self._panel is not None
        for finding in self._panel.see(Reading(step, losses, metrics, seconds)):
            if (finding.kind, finding.step) not in self._told:  # before a kill, at a step that is trained again
                announce(RunFolder(trainer.default_root_dir), finding)
