"""What of the main memory is left, as far as this process may have it."""

import os
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
