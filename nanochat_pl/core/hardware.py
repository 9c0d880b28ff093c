"""What this machine has, and what a run asks of it."""

import os
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from nanochat_pl.core.chips import ASSUMED, CHIPS, Chip, present_chip
from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.spec import AtLeast, Positive, Spec

Accelerator = Literal["cpu", "cuda", "mps"]
ComputeDtype = Literal["float32", "bfloat16", "float16"]
Precision = Literal["float32", "bfloat16", "float16", "float8", "transformer-engine"]
AttentionBackend = Literal["blocked", "sdpa", "flex", "flash", "flash2", "flash3", "flash4"]


CPU_TOKENS = 2048


@dataclass(frozen=True)
class HardwareSpec(Spec):
    """The hardware profile of a run (conf/hw).

    Attributes:
        accelerator: None takes the best that is there: CUDA, then Apple's MPS, then the CPU.
        chip: that the profile is for, by its name in `core.chips`; None: whichever is there.
        devices: processes on each node, one device each; None: as many as a launcher (torchrun, srun) started, else 1.
        nodes: None: as many as a launcher has, else 1.
        precision: of activations and matrix products; weights stay float32. "float8" multiplies in float8 by torchao,
            "transformer-engine" by NVIDIA's library, and both keep the rest in bfloat16. None: bfloat16 where the chip
            multiplies it fast, else float32.
        tokens_per_device: most tokens of one micro-batch on one device (at least one row); "auto": as many as fit into
            the memory; None: 2,048 on a CPU, whose matrix products are as fast then and whose memory holds half as much
            as with 4,096; "auto" elsewhere.
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
    chip: str | None = None
    devices: Annotated[int | None, AtLeast(1)] = None
    nodes: Annotated[int | None, AtLeast(1)] = None
    precision: Precision | None = None
    tokens_per_device: Annotated[int | Literal["auto"] | None, AtLeast(1)] = None
    attention: AttentionBackend | None = None
    compile: bool | None = None
    recompute: bool = False
    timeout_seconds: Annotated[float, Positive] = 600.0
    threads: Annotated[int | None, AtLeast(1)] = None
    loader_threads: Annotated[int, AtLeast(1)] = 2

    def check(self) -> None:
        if self.chip is not None and self.chip not in CHIPS:
            known = f"{nearest(self.chip, list(CHIPS))} Known: {', '.join(CHIPS)}."
            raise UserError(f"hw.chip is '{self.chip}', which is not in the table of chips{known}")

    def detect(self, decided: dict[str, Any] | None = None) -> "Hardware":
        """Every field decided for this machine, but for what the plan decides.

        Args:
            decided: an earlier invocation's decisions, kept where the accelerator is still the same (the micro-batch:
                the chip and the devices too).

        Raises:
            UserError: the profile is for another machine; the message names the nearest that fits this one.
        """
        if misfit := self._misfit():
            raise UserError(misfit)
        accelerator = self.accelerator or _present()[0]
        return self._decided(accelerator, present_chip(accelerator), decided or {})

    def assume(self) -> "Hardware":
        """As `detect`, but where this machine lacks what the profile is for, it is taken from the table of chips."""
        if self._misfit() is None:
            return self.detect()
        accelerator = self.accelerator or "cuda"
        return self._decided(accelerator, CHIPS[self.chip] if self.chip else ASSUMED[accelerator], {})

    def _decided(self, accelerator: Accelerator, chip: Chip, decided: dict[str, Any]) -> "Hardware":
        kept = decided if decided.get("accelerator") == accelerator else {}
        devices = self.devices or 1
        tokens: int | None = None
        if isinstance(self.tokens_per_device, int):
            tokens = self.tokens_per_device
        elif self.tokens_per_device is None and accelerator == "cpu":
            tokens = CPU_TOKENS
        elif kept.get("devices") == devices and kept.get("chip", {}).get("name") == chip.name:
            tokens = kept.get("tokens_per_device")
        if accelerator == "cpu":
            chip = replace(chip, memory_bytes=chip.memory_bytes // devices)
        return Hardware(
            accelerator=accelerator,
            chip=chip,
            devices=devices,
            nodes=self.nodes or 1,
            precision=self.precision
            or kept.get("precision")
            or ("bfloat16" if _fast_bfloat16(chip, accelerator) else "float32"),
            tokens_per_device=tokens,
            attention=self.attention,
            compile=kept.get("compile") if self.compile is None else self.compile,
            recompute=self.recompute,
            threads=self.threads,
        )

    def _misfit(self) -> str | None:
        """What of the profile this machine lacks, and the nearest that fits it; None: nothing."""
        import torch

        present, count = _present(), torch.cuda.device_count()
        wanted, own = self.accelerator or present[0], present_chip(present[0])
        same_chip = own.name.startswith(self.chip or "")
        enough = wanted != "cuda" or (self.devices or 1) <= count
        if wanted in present and same_chip and enough:
            return None
        profile = dict(CHIPS[self.chip].profiles).get(self.devices or 1) if self.chip else None
        times = f"{self.devices or 1} x " if wanted == "cuda" else ""
        if wanted in present:
            has = f"{count} x {own.name}" if present[0] == "cuda" else own.name
        else:
            has = "no CUDA GPU" if wanted == "cuda" else "no Apple GPU"
        if present[0] != "cuda":
            fitting = f"hw={present[0]}"
        elif count in dict(own.profiles):
            fitting = f"hw={dict(own.profiles)[count]}"
        else:
            fitting = f"hw.devices={count}" if same_chip else f"hw=auto hw.devices={count}"
        if not enough and "SLURM_LOCALID" in os.environ:
            return (
                f"This task of SLURM sees {count} of the {self.devices} devices of its node. Let every task see all: "
                "--gpus-per-node, without --gpus-per-task and --gpu-bind."
            )
        return (
            f"{f'hw={profile}' if profile else 'hw'} asks for {times}{self.chip or wanted}, but this machine has "
            f"{has}. The nearest that fits: {fitting}. `python -m nanochat_pl plan` plans for any chip anywhere."
        )


def _present() -> list[Accelerator]:
    """The accelerators of this machine, the best first."""
    import torch

    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [accelerator for accelerator, is_here in has.items() if is_here]  # type: ignore[misc]


def _fast_bfloat16(chip: Chip, accelerator: Accelerator) -> bool:
    if chip.pattern or accelerator != "cuda":
        return chip.bfloat16_flops is not None
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


@dataclass(frozen=True)
class Hardware:
    """What a run trains on: a HardwareSpec with nothing open, but for `compile` and `tokens_per_device` until the plan
    decides them.
    """

    accelerator: Accelerator
    precision: Precision
    chip: Chip
    tokens_per_device: int | None = None
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
        if self.precision == "float8" or self.precision == "transformer-engine":
            return "bfloat16"
        return self.precision
