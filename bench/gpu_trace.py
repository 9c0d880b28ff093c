"""How much of the time an NVIDIA GPU is busy."""

from collections.abc import Iterable

import torch


class GpuTrace:
    """What an NVIDIA GPU does from here to `busy_seconds`."""

    def __init__(self) -> None:
        self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
        self._profile.start()

    def busy_seconds(self) -> float | None:
        """In which a kernel or a copy ran; None: the trace is empty, as where reading the counters isn't allowed."""
        torch.cuda.synchronize()
        self._profile.stop()
        on_gpu = (
            event.time_range
            for event in self._profile.events() or ()
            if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
        )
        return covered((time_range.start, time_range.end) for time_range in on_gpu) / 1e6 or None


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the spans' union."""
    length, end = 0.0, float("-inf")
    for first, last in sorted(spans):
        length += max(0.0, last - max(first, end))
        end = max(end, last)
    return length
