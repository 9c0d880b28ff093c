"""Where the time of a training loop goes: forward, backward, optimizer, loader, and the host's rest."""

import time
from typing import Any, NamedTuple

import torch
from lightning.pytorch.profilers import Profiler

HOST = "host"
PHASES = {
    "training_step": "forward",
    "backward": "backward",
    "optimizer_step": "optimizer",
    "optimizer_zero_grad": "optimizer",
    "train_dataloader_next": "loader",
    "batch_to_device": "loader",
}
"""By the last part of the names that Lightning gives to what it does."""


class _Border(NamedTuple):
    """Where `phase` begins: in the host's seconds, and in the accelerator's stream."""

    phase: str
    seconds: float
    event: Any


class Timeline(Profiler):
    """Charges every moment of the training loop to the innermost phase that Lightning is in, or to the host.

    On an accelerator, which works behind the host, the borders are events in its stream as well; it is waited for in
    `cut` alone. A phase's time there includes what it waits for the host, so the host's phase is what the accelerator
    rests between the others.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self._device = device
        self._within = [HOST]
        self._borders: list[_Border] = []
        self.cut()

    def start(self, action_name: str) -> None:
        self._within.append(PHASES.get(action_name.rpartition(".")[2], self._within[-1]))
        self._mark()

    def stop(self, action_name: str) -> None:
        self._within.pop()
        self._mark()

    def cut(self) -> dict[str, dict[str, float]]:
        """Seconds since the last cut by phase: "host" those in which the host was in it, "device" the accelerator."""
        event = self._record()
        if event is not None:
            event.synchronize()
        self._borders.append(_Border(self._within[-1], time.perf_counter(), event))
        clocks = ("host",) if event is None else ("host", "device")
        seconds = {clock: dict.fromkeys((*PHASES.values(), HOST), 0.0) for clock in clocks}
        for before, after in zip(self._borders, self._borders[1:]):
            seconds["host"][before.phase] += after.seconds - before.seconds
            if event is not None:
                seconds["device"][before.phase] += before.event.elapsed_time(after.event) / 1e3
        del self._borders[:-1]
        return seconds

    def _mark(self) -> None:
        if self._within[-1] != self._borders[-1].phase:
            self._borders.append(_Border(self._within[-1], time.perf_counter(), self._record()))

    def _record(self) -> Any:
        if self._device.type == "cpu":
            return None
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        return event
