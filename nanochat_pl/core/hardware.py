"""What this machine has, and what a run asks of it."""

import os
import platform
from dataclasses import dataclass
from typing import Any, Literal

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.spec import Spec

Accelerator = Literal["cpu", "cuda", "mps"]
ComputeDtype = Literal["float32", "bfloat16", "float16"]
Precision = Literal["float32", "bfloat16", "float16", "float8"]
AttentionBackend = Literal["blocked", "sdpa", "flex", "flash", "flash2", "flash3", "flash4"]


@dataclass(frozen=True)
class HardwareSpec(Spec):
    """The hardware profile of a run (conf/hw).

    Attributes:
        accelerator: None takes the best that is there: CUDA, then Apple's MPS, then the CPU.
        devices: processes on each node, one device each; None: as many as a launcher (torchrun, srun) started, else 1.
        nodes: None: as many as a launcher has, else 1.
        precision: of activations and matrix products; weights stay float32. "float8" multiplies in float8 and keeps the
            rest in bfloat16. None: bfloat16 where the chip multiplies it fast, else float32.
        tokens_per_device: most tokens of one micro-batch on one device (at least one row); None: 2,048 on a CPU, whose
            matrix products are as fast then and whose memory holds half as much as with 4,096; 16,384 elsewhere.
        attention: the kernel; None: the fastest that is here.
        compile: torch.compile the model's blocks; None leaves it to the plan, which compiles where it pays back within
            the run.
        recompute: keep no activations within a block, compute them again in the backward pass (activation
            checkpointing).
        timeout_seconds: how long one process may wait for another before the run is given up.
        threads: torch's threads per process; None leaves torch's choice, shared out where several are on one CPU.
        loader_threads: that tokenize beside the training, per process.
    """

    accelerator: Accelerator | None = None
    devices: int | None = None
    nodes: int | None = None
    precision: Precision | None = None
    tokens_per_device: int | None = None
    attention: AttentionBackend | None = None
    compile: bool | None = None
    recompute: bool = False
    timeout_seconds: float = 600.0
    threads: int | None = None
    loader_threads: int = 2

    def check(self) -> None:
        if self.tokens_per_device is not None and self.tokens_per_device < 1:
            raise UserError(f"hw.tokens_per_device is {self.tokens_per_device}; it must be at least one token.")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"hw.threads is {self.threads}; it must be at least 1, or null for torch's own choice.")
        if not 0 < self.timeout_seconds < float("inf"):
            raise UserError(f"hw.timeout_seconds is {self.timeout_seconds}; it must be above 0, for example 600.")
        for name in ("devices", "nodes", "loader_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"hw.{name} is {value}; it must be at least 1.")

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
            devices=self.devices or 1,
            nodes=self.nodes or 1,
            precision=self.precision or kept.get("precision") or ("bfloat16" if fast_bf16 else "float32"),
            tokens_per_device=self.tokens_per_device or (2048 if accelerator == "cpu" else 16384),
            attention=self.attention or kept.get("attention"),
            compile=kept.get("compile") if self.compile is None else self.compile,
            recompute=self.recompute,
            threads=self.threads,
        )


@dataclass(frozen=True)
class Hardware:
    """What a run trains on: a HardwareSpec with nothing open, but for `compile` until the plan decides it."""

    accelerator: Accelerator
    precision: Precision
    tokens_per_device: int
    devices: int = 1
    nodes: int = 1
    attention: AttentionBackend | None = None
    compile: bool | None = None
    recompute: bool = False
    threads: int | None = None

    @property
    def world_size(self) -> int:
        """Processes of the run."""
        return self.devices * self.nodes

    @property
    def compute_dtype(self) -> ComputeDtype:
        """Dtype of the activations."""
        return "bfloat16" if self.precision == "float8" else self.precision


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
