"""What this machine has, and what a run asks of it."""

import dataclasses
import platform
from dataclasses import dataclass
from typing import Any, Literal

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.spec import Spec

Accelerator = Literal["cpu", "cuda", "mps"]


@dataclass(frozen=True)
class HardwareSpec(Spec):
    """The hardware profile of a run (conf/hw).

    Attributes:
        accelerator: None takes the best that is there: CUDA, then Apple's MPS, then the CPU.
        devices: processes of this run; 1 so far.
        compute_dtype: dtype of activations and matrix products; weights stay float32. None: bfloat16 where the chip
            multiplies it fast, else float32.
        tokens_per_device: most tokens of one micro-batch on one device.
        compile: torch.compile the model; None compiles where it pays back within the run (CUDA).
        threads: torch's threads per process; None leaves torch's choice.
    """

    accelerator: Accelerator | None = None
    devices: int = 1
    compute_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    tokens_per_device: int = 8192
    compile: bool | None = None
    threads: int | None = None

    def check(self) -> None:
        if self.devices != 1:
            raise UserError(f"hw.devices is {self.devices}; a run trains on one device so far: set hw.devices=1.")
        if self.tokens_per_device < 1:
            raise UserError(f"hw.tokens_per_device is {self.tokens_per_device}; it must be at least one token.")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"hw.threads is {self.threads}; it must be at least 1, or null for torch's own choice.")

    def detect(self, decided: dict[str, Any] | None = None) -> "HardwareSpec":
        """This profile with every unset field decided for this machine.

        Args:
            decided: an earlier invocation's decisions, kept where the accelerator is still the same.

        Raises:
            UserError: the profile asks for an accelerator or a number of devices that is not here.
        """
        import torch

        available: dict[str, int] = {"cuda": torch.cuda.device_count()}
        available["mps"] = int(torch.backends.mps.is_available())
        accelerator = self.accelerator or next((name for name, count in available.items() if count), "cpu")
        if accelerator != "cpu" and available[accelerator] < self.devices:
            raise UserError(
                f"hw asks for {self.devices} {accelerator} device(s), but this machine has {available[accelerator]}. "
                f"Set hw.devices={max(available[accelerator], 1)}, or leave hw out to take what is here."
            )
        decided = decided if decided and decided["accelerator"] == accelerator else {}
        fast_bf16 = accelerator == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return dataclasses.replace(
            self,
            accelerator=accelerator,
            compute_dtype=self.compute_dtype
            or decided.get("compute_dtype", "bfloat16" if fast_bf16 else "float32"),
            compile=decided.get("compile", accelerator == "cuda") if self.compile is None else self.compile,
        )


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
