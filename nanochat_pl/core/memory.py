"""What of the memory is left as far as this process may have it, what it has held, and the cores that it has."""

import os
import resource
import sys
from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def available_memory_bytes() -> int | None:
    """That can be taken without swapping, or being killed for it in a container; None: this system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        available = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    try:
        limit, used = (int((_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        lines = (_GROUP / "memory.stat").read_text(encoding="utf-8").splitlines()
        given_back = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, StopIteration, ValueError):  # no control group, or one without a limit
        return available
    return max(0, min(available, limit - used + given_back))


def usable_cpus() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_bytes(accelerator: str = "cpu") -> int:
    """The most that this process has held so far: on its GPU, as nvidia-smi counts it, else in the main memory.

    On the GPU that is the peak of what torch's allocator has reserved, and what the device holds now beside it: the
    context and the libraries' buffers (and another program's, if the process has not the device to itself).
    """
    if accelerator == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info()
        beside = total - free - torch.cuda.memory_reserved()
        return torch.cuda.max_memory_reserved() + max(0, beside)
    if sys.platform == "linux":  # where ru_maxrss begins with the peak of the process that has started this one
        told = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * next(int(line.split()[1]) for line in told.splitlines() if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
