"""What training chips have: memory, arithmetic, and how much of it training reaches.

Planning for a machine that is not here rests on this table; on a known chip it gives the peak that the share of it
reached in training (MFU) refers to.
"""

import os
import platform
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

GIB = 2**30
TYPICAL_MFU = 0.4
"""Share of the peak, or of the measured speed of matrix products, that is expected where the table says nothing."""
FLOAT8_GAIN = 1.17
"""What a step in float8 is faster than one in bfloat16: nanochat's d26 on H100."""


@dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
        name: in the table as hw.chip names it, else as its maker writes it.
        memory_bytes: that a process can have.
        bfloat16_flops, float32_flops: peak per second of dense matrix products (accumulated in float32; those of
            float32 in TF32, where the chip has it); None: unknown, or not fast at it.
        float8: whether it multiplies in float8.
        mfu: the share of the peak that training is expected to reach.
        pattern: of the device's name as torch tells it.
        profiles: conf/hw's names by number of devices.
    """

    name: str
    memory_bytes: int
    bfloat16_flops: float | None = None
    float32_flops: float | None = None
    float8: bool = False
    mfu: float = TYPICAL_MFU
    pattern: str | None = None
    profiles: tuple[tuple[int, str], ...] = ()

    def peak_flops(self, precision: str) -> float | None:
        """Of dense matrix products, per second; for float8 those of bfloat16, in which MFU is told as well."""
        return self.float32_flops if precision == "float32" else self.bfloat16_flops

    def training_flops(self, precision: str) -> float | None:
        """That training is expected to reach, per second; None: unknown."""
        peak = self.peak_flops(precision)
        return None if peak is None else peak * self.mfu * (FLOAT8_GAIN if precision == "float8" else 1)


# Peaks are of NVIDIA's data sheets, without sparsity; memory is what torch finds there. MFU: nanochat's log has 41 to
# 46% for d18 to d24 on H100 in bfloat16. The other chips' follow from their arithmetic for each byte of bandwidth,
# and are guesses until bench/step.py has run there.
_TABLE = (
    Chip("A100 40GB", int(39.4 * GIB), 312e12, 156e12, False, 0.50, r"\bA100\b.*40GB"),
    Chip("A100", int(79.1 * GIB), 312e12, 156e12, False, 0.50, r"\bA[18]00\b", ((8, "a100x8"),)),
    Chip("H100 PCIe", int(79.1 * GIB), 756e12, 378e12, True, 0.40, r"\bH100\b.*PCIe"),
    Chip("H100 NVL", int(93.1 * GIB), 835e12, 417e12, True, 0.43, r"\bH100\b.*NVL"),
    Chip("H100", int(79.1 * GIB), 989.4e12, 494.7e12, True, 0.43, r"\bH100\b", ((1, "h100x1"), (8, "h100x8"))),
    Chip("H200", int(139.7 * GIB), 989.4e12, 494.7e12, True, 0.45, r"\bH200\b", ((1, "h200x1"),)),
    Chip("B200", int(178.3 * GIB), 2250e12, 1125e12, True, 0.35, r"\bB200\b", ((8, "b200x8"),)),
    Chip("L4", int(22.0 * GIB), 121e12, 60e12, True, 0.35, r"\bL4\b"),
    Chip("L40S", int(44.4 * GIB), 362e12, 183e12, True, 0.35, r"\bL40S\b"),
    Chip("RTX 3090", int(23.5 * GIB), 71e12, 35.6e12, False, 0.50, r"RTX 3090\b"),
    Chip("RTX 4090", int(23.5 * GIB), 165.2e12, 82.6e12, True, 0.45, r"RTX 4090$", ((1, "rtx4090"),)),
    Chip("RTX 5090", int(31.3 * GIB), 209.5e12, 104.8e12, True, 0.45, r"RTX 5090$", ((1, "rtx5090"),)),
    Chip("Apple M4", int(10.6 * GIB), None, 4.3e12, False, 0.40, r"Apple M4$", ((1, "mps"),)),
)
CHIPS = {chip.name: chip for chip in _TABLE}
ASSUMED = {"cuda": CHIPS["H100"], "mps": CHIPS["Apple M4"]}
"""What is planned for where an accelerator is asked for that is neither here nor named."""


def find_chip(device_name: str) -> Chip | None:
    """The table's chip whose device has this name."""
    return next((chip for chip in _TABLE if chip.pattern and re.search(chip.pattern, device_name)), None)


def present_chip(accelerator: str) -> Chip:
    """This machine's chip, with the memory that it has."""
    name = device_name(accelerator)
    return replace(find_chip(name) or Chip(name, 0), memory_bytes=_memory_bytes(accelerator))


def device_name(accelerator: str) -> str:
    """The chip's name as its maker writes it."""
    if accelerator == "cuda":
        import torch

        return torch.cuda.get_device_name(0)
    if accelerator == "mps":
        try:
            return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
        except (OSError, subprocess.CalledProcessError):
            return f"Apple {platform.machine()}"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            names = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def _memory_bytes(accelerator: str) -> int:
    """Memory of one device; of the main memory what a container leaves."""
    import torch

    if accelerator == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    if accelerator == "mps":
        return torch.mps.recommended_max_memory()
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no control group, or one without a limit
        return physical
