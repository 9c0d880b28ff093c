"""What this machine has, and what a run asks of it."""

import os
import platform
from dataclasses import dataclass
from typing import Any, Literal

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.spec import Spec

Accelerator = Literal["cpu", "cuda", "mps"]
ComputeDtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class HardwareSpec(Spec):
    """The hardware profile of a run (conf/hw).

    Attributes:
        accelerator: None takes the best that is there: CUDA, then Apple's MPS, then the CPU.
        devices: processes of this run; 1 so far.
        compute_dtype: dtype of activations and matrix products; weights stay float32. None: bfloat16 where the chip
            multiplies it fast, else float32.
        tokens_per_device: most tokens of one micro-batch on one device (at least one row); None: 2,048 on a CPU, whose
            matrix products are as fast then and whose memory holds half as much as with 4,096; 16,384 elsewhere.
        compile: torch.compile the model; None leaves it to the plan, which compiles where it pays back within the run.
        threads: torch's threads per process; None leaves torch's choice.
        loader_threads: that tokenize beside the training, per process.
    """

    accelerator: Accelerator | None = None
    devices: int = 1
    compute_dtype: ComputeDtype | None = None
    tokens_per_device: int | None = None
    compile: bool | None = None
    threads: int | None = None
    loader_threads: int = 2

    def check(self) -> None:
        if self.devices != 1:
            raise UserError(f"hw.devices is {self.devices}; a run trains on one device so far: set hw.devices=1.")
        if self.tokens_per_device is not None and self.tokens_per_device < 1:
            raise UserError(f"hw.tokens_per_device is {self.tokens_per_device}; it must be at least one token.")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"hw.threads is {self.threads}; it must be at least 1, or null for torch's own choice.")
        if self.loader_threads < 1:
            raise UserError(f"hw.loader_threads is {self.loader_threads}; it must be at least 1.")

    def detect(self, decided: dict[str, Any] | None = None) -> "Hardware":
        """Every open field decided for this machine.

        Args:
            decided: an earlier invocation's decisions, kept where the accelerator is still the same.

        Raises:
            UserError: the profile asks for an accelerator that is not here.
        """
        import torch

        present: list[Accelerator] = []
        if torch.cuda.is_available():
            present.append("cuda")
        if torch.backends.mps.is_available():
            present.append("mps")
        present.append("cpu")
        accelerator = self.accelerator or present[0]
        if accelerator not in present:
            raise UserError(
                f"hw asks for {accelerator}, but this machine has {', '.join(present)}. Choose one of these with "
                "hw.accelerator, or leave hw out to take the best that is here."
            )
        kept = decided if decided and decided["accelerator"] == accelerator else {}
        fast_bf16 = accelerator == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return Hardware(
            accelerator=accelerator,
            devices=self.devices,
            compute_dtype=self.compute_dtype or kept.get("compute_dtype") or ("bfloat16" if fast_bf16 else "float32"),
            tokens_per_device=self.tokens_per_device or (2048 if accelerator == "cpu" else 16384),
            compile=kept.get("compile") if self.compile is None else self.compile,
            threads=self.threads,
        )


@dataclass(frozen=True)
class Hardware:
    """What a run trains on: a HardwareSpec with nothing open, but for `compile` until the plan decides it."""

    accelerator: Accelerator
    devices: int
    compute_dtype: ComputeDtype
    tokens_per_device: int
    compile: bool | None
    threads: int | None


def device_name(accelerator: str) -> str:
    """The chip's name as its maker writes it."""
    if accelerator == "cuda":
        import torch

        return torch.cuda.get_device_name(0)
    if accelerator == "mps":
        return f"Apple {platform.machine()}"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            names = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def memory_bytes(accelerator: str) -> int:
    """Memory of one device."""
    if accelerator == "cuda":
        import torch

        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
