"""The Plan: everything that can be checked beforehand, on one printed screen."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.hardware import Hardware, device_name, memory_bytes
from nanochat_pl.models.cost import ModelCost
from nanochat_pl.optim.scaling import Horizon, HorizonSpec, resolve_horizon

TYPICAL_UTILISATION = 0.4
"""Share of the matrix-multiply speed that training of small models reaches; a guess for the expected time only."""

COMPILING_SECONDS = 40
"""At most four kinds of block, at up to ten seconds each, however deep the model is; an estimate."""
COMPILING_SAVES = {"cuda": 0.3}
"""The share of a run's time that torch.compile saves, by accelerator. On CPUs nothing (measured: 0.95 to 0.97 times the
eager speed, docs/benchmarks.md), on Apple's chips it is untried."""


@dataclass(frozen=True)
class Plan:
    """What is trained, in which pieces, and what it is expected to take.

    Attributes:
        model: the architecture's config.
        horizon: total batch, steps, tokens and what follows from them.
        rows_per_step: sequences of one optimizer step over all devices.
        micro_batch_rows: sequences of one forward pass on one device.
        accumulation: micro-batches of one step on one device.
        memory_bytes: estimate by what holds it.
        device_memory_bytes: what one device has.
        seconds: expected of the training, a guess from the device's matrix-multiply speed.
        parent: path, stage and step of the model that the stage begins with; empty for the first stage.
    """

    model: Any
    hardware: Hardware
    horizon: Horizon
    cost: ModelCost
    rows_per_step: int
    micro_batch_rows: int
    accumulation: int
    memory_bytes: dict[str, int]
    device_memory_bytes: int
    seconds: float
    parent: dict[str, Any] = dataclasses.field(default_factory=dict)

    def check_memory(self) -> None:
        """Raise `UserError` where weights, gradients and optimizer alone exceed the device's memory."""
        state = sum(self.memory_bytes[name] for name in STATE)
        if state > self.device_memory_bytes:
            raise UserError(
                f"The model's {', '.join(STATE)} take {_gigabytes(state)}, but the device has "
                f"{_gigabytes(self.device_memory_bytes)}. Choose a smaller model.depth or model.n_embd."
            )

    def as_dict(self) -> dict[str, Any]:
        """The automatic decisions, for resolved.json."""
        return {
            "model": self.model.as_dict(),
            "hardware": dataclasses.asdict(self.hardware),
            "total_batch_tokens": self.horizon.total_batch_tokens,
            "steps": self.horizon.steps,
            "tokens": self.horizon.tokens,
            "rows_per_step": self.rows_per_step,
            "micro_batch_rows": self.micro_batch_rows,
            "accumulation": self.accumulation,
            "lr_scale": self.horizon.lr_scale,
            "weight_decay_scale": self.horizon.weight_decay_scale,
            "parent": self.parent,
        }

    def text(self) -> str:
        """The plan as a screen of text."""
        model, horizon, hardware = self.model, self.horizon, self.hardware
        roles = ", ".join(f"{role} {count:,}" for role, count in self.cost.parameters_by_role.items() if count)
        flops = self.cost.training_flops_per_token * horizon.tokens
        windows = f"windows {model.window_pattern}, " if set(model.window_pattern) != {"L"} else ""
        memory = ", ".join(f"{name} {_gigabytes(size)}" for name, size in self.memory_bytes.items())
        lines = [
            ("model", f"{model.n_layer} layers, width {model.n_embd}, {model.n_head} heads"
                      f"{f' ({model.n_kv_head} kv)' if model.n_kv_head != model.n_head else ''}, "
                      f"context {model.sequence_len}, {windows}vocabulary {model.vocab_size:,}"),
            ("parameters", f"{self.cost.parameters:,} ({roles})"),
            ("horizon", f"{horizon.steps:,} steps x {horizon.total_batch_tokens:,} tokens = {horizon.tokens:,} tokens "
                        f"({horizon.tokens / self.cost.scaling_parameters:.1f} per scaling parameter)"),
            ("batch", f"{self.rows_per_step} rows a step = {self.accumulation} x {self.micro_batch_rows} rows x "
                      f"{hardware.world_size} device(s)"),
            ("scales", f"learning rates x {horizon.lr_scale:.3g}, weight decay x {horizon.weight_decay_scale:.3g}"),
            ("hardware", f"{hardware.world_size} x {device_name(hardware.accelerator)}, {hardware.precision}"
                         f"{', compiled' if hardware.compile else ''}"),
            ("memory", f"about {_gigabytes(sum(self.memory_bytes.values()))} of "
                       f"{_gigabytes(self.device_memory_bytes)} ({memory}){self._memory_advice()}"),
            ("work", f"{flops:.3g} FLOPs, about {_duration(self.seconds)}"),
        ]  # fmt: skip
        if self.parent:
            lines.insert(0, ("from", f"{self.parent['path']} ({self.parent['stage']}, step {self.parent['step']:,})"))
        return "\n".join(f"{name:>10}  {value}" for name, value in lines)

    def _memory_advice(self) -> str:
        if sum(self.memory_bytes.values()) <= 0.9 * self.device_memory_bytes:
            return ""
        if self.micro_batch_rows == 1:
            return "; it may not fit: try a smaller model"
        tokens = self.micro_batch_rows // 2 * self.model.sequence_len
        return f"; it may not fit: try hw.tokens_per_device={tokens}"


STATE = ("weights", "gradients", "optimizer")


def make_plan(
    model: Any,
    reference: Any,
    horizon: HorizonSpec,
    hardware: Hardware,
    streams: int,
    flops_per_second: float,
    epoch_tokens: int | None = None,
) -> Plan:
    """Check that everything divides, and decide what was left open.

    Args:
        model: the architecture's config.
        reference: the config of the model that the scaling laws refer to, with the same vocabulary.
        streams: virtual streams of the data.
        flops_per_second: matrix-multiply speed of one device.
        epoch_tokens: of one pass over the data, where the horizon counts them.

    Raises:
        UserError: a combination that cannot be; the message names the nearest that can.
    """
    cost, sequence_len, devices = ModelCost(model), model.sequence_len, hardware.world_size
    resolved = resolve_horizon(
        horizon,
        scaling_parameters=cost.scaling_parameters,
        reference_scaling_parameters=ModelCost(reference).scaling_parameters,
        flops_per_token=cost.training_flops_per_token,
        sequence_len=sequence_len,
        devices=devices,
        epoch_tokens=epoch_tokens,
    )
    rows = resolved.total_batch_tokens // sequence_len
    if streams % devices:
        raise UserError(f"data.streams={streams} is not a multiple of {devices} devices; choose a multiple of them.")
    rows_per_device = rows // devices
    fitting = max(1, hardware.tokens_per_device // sequence_len)
    micro = max(size for size in range(1, min(rows_per_device, fitting) + 1) if rows_per_device % size == 0)
    work = cost.training_flops_per_token * resolved.tokens
    seconds = work / (flops_per_second * TYPICAL_UTILISATION * devices)
    if hardware.compile is None:
        saved = seconds * COMPILING_SAVES.get(hardware.accelerator, 0)
        hardware = dataclasses.replace(hardware, compile=saved > COMPILING_SECONDS)
    return Plan(
        model=model,
        hardware=hardware,
        horizon=resolved,
        cost=cost,
        rows_per_step=rows,
        micro_batch_rows=micro,
        accumulation=rows_per_device // micro,
        memory_bytes=_memory_estimate(model, cost, hardware, micro * sequence_len),
        device_memory_bytes=memory_bytes(hardware.accelerator),
        seconds=seconds,
    )


def measured_matmul_flops_per_second(accelerator: str, compute_dtype: str, width: int) -> float:
    """The speed of matrix products of the model's width on this device, measured for a few hundredths of a second."""
    import time

    import torch

    device, dtype = torch.device(accelerator), getattr(torch, compute_dtype)
    rows = max(64, 2**29 // width**2)  # the same work at every width
    a, b = torch.ones(rows, width, device=device, dtype=dtype), torch.ones(width, 4 * width, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        (a @ b).sum().item()
        best = min(best, time.perf_counter() - started)
    return 2 * rows * width * 4 * width / best


def _memory_estimate(model: Any, cost: ModelCost, hardware: Hardware, micro_tokens: int) -> dict[str, int]:
    """Float32 weights and gradients; AdamW keeps two moments, Muon one; a layer keeps about 20 widths a token."""
    muon = cost.parameters_by_role["matrix"]
    activation_bytes = 4 if hardware.compute_dtype == "float32" else 2
    return {
        "weights": 4 * cost.parameters,
        "gradients": 4 * cost.parameters,
        "optimizer": 4 * muon + 8 * (cost.parameters - muon),
        "activations": activation_bytes * micro_tokens * model.n_embd * (20 * model.n_layer + 8),
        "framework": 500_000_000,
    }


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 5e6 else f"{size / 1e6:.2f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
