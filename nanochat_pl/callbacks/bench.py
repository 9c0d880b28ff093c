"""A training of a few steps: first measured, then traced."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.profiler import ProfilerActivity, profile

from nanochat_pl.callbacks.cadence import stepped
from nanochat_pl.callbacks.metrics import peak_flops
from nanochat_pl.callbacks.timeline import Timeline
from nanochat_pl.core.memory import peak_memory_bytes
from nanochat_pl.models.cost import ModelCost


@dataclass
class Measured:
    """What a step takes.

    Attributes:
        seconds, tokens: of a step.
        flops: reached per second, as `ModelCost` counts them; None where a step's tokens say nothing of its work.
        mfu: their share of the chip's peak; None: unknown.
        peak_memory_bytes: of the process.
        phases: seconds of a step by phase: those in which the host was in it, and on an accelerator the device.
        operators: (name, calls in a step, own seconds in a step) of what was traced, the longest first.
    """

    seconds: float = 0.0
    tokens: int = 0
    flops: float | None = None
    mfu: float | None = None
    peak_memory_bytes: int = 0
    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    operators: list[tuple[str, float, float]] = field(default_factory=list)


class Bench(Callback):
    """Measures `steps` steps behind `warmup` others, then traces `traced` more with torch.profiler.

    Args:
        trace: the file to write: Chrome's format, which https://ui.perfetto.dev shows.
    """

    def __init__(self, warmup: int, steps: int, traced: int, trace: Path):
        self.measured = Measured()
        self._warmup, self._steps, self._traced, self._trace = warmup, steps, traced, trace
        self._timeline: Timeline | None = None
        self._profile: profile | None = None

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not stepped(trainer):
            return
        step, device = trainer.global_step, trainer.strategy.root_device
        if step == self._warmup:
            _wait_for(device)
            self._timeline = Timeline(device)
            trainer.profiler = self._timeline  # type: ignore[attr-defined]
        elif step == self._warmup + self._steps:
            _wait_for(device)
            self._measure(trainer, stage)
            self._profile = _profile(device)
            self._profile.start()
        elif step == self._warmup + self._steps + self._traced:
            _wait_for(device)
            self._read_profile(device)

    def _measure(self, trainer: Trainer, stage: Any) -> None:
        assert self._timeline is not None
        measured = self.measured
        phases = self._timeline.cut()
        measured.phases = {
            clock: {phase: spent / self._steps for phase, spent in of_clock.items()}
            for clock, of_clock in phases.items()
        }
        measured.seconds = sum(measured.phases["host"].values())
        measured.peak_memory_bytes = peak_memory_bytes(trainer.strategy.root_device.type)
        if stage.counts_tokens:
            measured.tokens = stage.blueprint.horizon.total_batch_tokens
            cost = ModelCost(stage.blueprint.model)
            measured.flops = measured.tokens * cost.training_flops_per_token / measured.seconds
            peak = peak_flops(trainer, stage)
            measured.mfu = measured.flops / peak if peak else None

    def _read_profile(self, device: torch.device) -> None:
        assert self._profile is not None
        self._profile.stop()
        self._trace.parent.mkdir(parents=True, exist_ok=True)
        self._profile.export_chrome_trace(str(self._trace))
        own = "self_cpu_time_total" if device.type == "cpu" else "self_device_time_total"
        events = [(event.key, event.count, getattr(event, own) / 1e6) for event in self._profile.key_averages()]
        per_step = [(name, count / self._traced, seconds / self._traced) for name, count, seconds in events if seconds]
        self.measured.operators = sorted(per_step, key=lambda event: event[2], reverse=True)


def _profile(device: torch.device) -> profile:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    return profile(activities=activities, acc_events=True)


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()
