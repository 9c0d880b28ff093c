"""The most memory that this process has held so far."""

import resource
import sys
from pathlib import Path


def peak_memory_bytes(accelerator: str = "cpu") -> int:
    """On its GPU, as nvidia-smi counts it, else in the main memory.

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
