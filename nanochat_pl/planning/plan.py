"""The Plan: everything that can be checked beforehand, and everything that was left open decided."""

import bisect
import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.figures import size
from nanochat_pl.core.hardware import Hardware
from nanochat_pl.models.contract import architecture_of
from nanochat_pl.models.cost import ModelCost
from nanochat_pl.models.hf import HFConfig
from nanochat_pl.nn.attention.choose import advice, choose
from nanochat_pl.nn.molegrad import DENSE, Streaming
from nanochat_pl.optim.contract import OptimizerSpec
from nanochat_pl.optim.muon import NANOCHAT, MuonAdamWSpec
from nanochat_pl.optim.scaling import Horizon, HorizonSpec, resolve_horizon
from nanochat_pl.planning.memory import STATE, fits, memory_bytes
from nanochat_pl.planning.screen import screen

COMPILING_SECONDS = 40
"""At most four kinds of block, at up to ten seconds each, however deep the model is; an estimate."""
COMPILING_SAVES = {"cuda": 0.3}
"""The share of a run's time that torch.compile saves, by accelerator. On CPUs nothing (measured: 0.95 to 0.97 times the
eager speed, docs/benchmarks.md), on Apple's chips it is untried."""
AUTO_TOKENS = 65536
"""Of the largest micro-batch that `tokens_per_device=auto` takes: an accelerator is not faster with more."""


@dataclass(frozen=True)
class Plan:
    """What is trained, in which pieces, and what it is expected to take.

    Attributes:
        model: the architecture's config.
        horizon: total batch, steps, tokens and what follows from them.
        rows_per_step: sequences of one optimizer step over all devices.
        micro_batch_rows: sequences of one forward pass on one device.
        flops_per_second: that training is expected to reach on one device.
        holds: what the data hold: "text", "conversations" or "questions".
        parent: path, stage and step of the model that the stage begins with; empty for the first stage.
        note: what it had to assume, or advises.
        streaming: which matrices keep low-rank gradients.
        optimizer: whose state takes memory.
    """

    model: Any
    hardware: Hardware
    horizon: Horizon
    cost: ModelCost
    rows_per_step: int
    micro_batch_rows: int
    flops_per_second: float
    holds: str = "text"
    parent: dict[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""
    streaming: Streaming = DENSE
    optimizer: OptimizerSpec = NANOCHAT

    @property
    def accumulation(self) -> int:
        """Micro-batches of one step on one device."""
        return self.rows_per_step // self.hardware.world_size // self.micro_batch_rows

    @property
    def flops(self) -> float:
        """Of the whole training."""
        return self.cost.training_flops_per_token * self.horizon.tokens

    @property
    def tokens_per_second(self) -> float:
        """That all devices together are expected to train."""
        return self.flops_per_second * self.hardware.world_size / self.cost.training_flops_per_token

    @property
    def seconds(self) -> float:
        """Expected of the training."""
        return self.horizon.tokens / self.tokens_per_second

    @functools.cached_property
    def memory_bytes(self) -> dict[str, int]:
        """The peak on one device, by what holds it."""
        rows = self._rows_per_device
        shape = (self.micro_batch_rows, rows, self.holds, self.streaming, self.optimizer)
        return memory_bytes(self.model, self.cost, self.hardware, *shape)

    @property
    def total_bytes(self) -> int:
        """Of that peak."""
        return sum(self.memory_bytes.values())

    @property
    def saved_bytes(self) -> int:
        """What the low-rank gradients save of the peak."""
        return dataclasses.replace(self, streaming=DENSE).total_bytes - self.total_bytes

    @property
    def fits(self) -> bool:
        """Whether the device has the memory, with a margin."""
        return fits(self.memory_bytes, self.hardware)

    def check_memory(self) -> None:
        """Raise `UserError` where weights, gradients and optimizer alone exceed the device's memory."""
        state = sum(self.memory_bytes[name] for name in STATE)
        if state > self.hardware.chip.memory_bytes:
            raise UserError(
                f"The model's {', '.join(STATE)} take {size(state)}, but the device has "
                f"{size(self.hardware.chip.memory_bytes)}. Choose a smaller model.depth or model.n_embd."
            )

    def on_this_machine(self) -> "Plan":
        """With the attention kernel that runs here.

        Raises:
            UserError: the one that was asked for does not.
        """
        model = self.model
        hardware = self.hardware
        if isinstance(model, HFConfig):
            if hardware.attention is not None:
                raise UserError(
                    f"hw.attention={hardware.attention} is not model=hf's: the library attends. Leave it out."
                )
            return self
        kernel = choose(hardware.attention, hardware.accelerator, model.dtype, model.head_dim, model.slopes)
        hardware = dataclasses.replace(hardware, attention=kernel.name)
        note = "; ".join(filter(None, (self.note, advice(kernel, model.windows))))
        return dataclasses.replace(self, hardware=hardware, note=note)

    def with_micro_batch(self, rows: int) -> "Plan":
        """The same training in micro-batches of another size, which divides the rows of one device."""
        hardware = dataclasses.replace(self.hardware, tokens_per_device=rows * self.model.sequence_len)
        return dataclasses.replace(self, hardware=hardware, micro_batch_rows=rows)

    def smaller(self) -> "Plan | None":
        """The same training in the largest micro-batches of at most half the size that fit; of one row where none is
        expected to; None where they are of one row.
        """
        sizes = [rows for rows in divisors(self._rows_per_device) if 2 * rows <= self.micro_batch_rows]
        return largest_that_fits(self, sizes) or self.with_micro_batch(sizes[0]) if sizes else None

    def as_dict(self) -> dict[str, Any]:
        """The automatic decisions, for resolved.json."""
        return {
            "architecture": architecture_of(self.model),
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
            "memory_bytes": self.memory_bytes,
            "parent": self.parent,
        }

    def text(self, price_per_hour: float | None = None) -> str:
        """The plan as a screen of text, with what it costs where one device has a price."""
        return screen(self, price_per_hour)

    @property
    def _rows_per_device(self) -> int:
        return self.rows_per_step // self.hardware.world_size


def make_plan(
    model: Any,
    reference: Any,
    horizon: HorizonSpec,
    hardware: Hardware,
    streams: int,
    flops_per_second: float,
    epoch_tokens: int | None = None,
    holds: str = "text",
    streaming: Streaming = DENSE,
    optimizer: OptimizerSpec = NANOCHAT,
) -> Plan:
    """Check that everything divides, and decide what was left open.

    Args:
        reference: the config of the model that the scaling laws refer to, with the same vocabulary.
        epoch_tokens: of one pass over the data, where the horizon counts them.

    Raises:
        UserError: a combination that cannot be; the message names the nearest that can.
    """
    if streaming.enabled and not isinstance(optimizer, MuonAdamWSpec):
        raise UserError(
            "streaming.enabled=true keeps sketches in place of gradients, which only MuonAdamW can use. Choose "
            "optim=muon_adamw, or streaming.enabled=false."
        )
    if streaming.enabled and hardware.precision in ("float8", "transformer-engine"):
        raise UserError(
            "streaming.enabled=true computes in the precision of the activations, not in float8. Choose "
            "hw.precision=bfloat16, or leave streaming out."
        )
    if hardware.precision == "transformer-engine":
        if hardware.compile or hardware.recompute:
            option = "hw.compile" if hardware.compile else "hw.recompute"
            raise UserError(
                f"hw.precision=transformer-engine does not go with {option}=true, which does not see the scales that "
                f"TransformerEngine's layers keep. Set {option}=false, or choose hw.precision=float8."
            )
        hardware = dataclasses.replace(hardware, compile=False)
    if isinstance(model, HFConfig):  # whose code is not compiled
        hardware = dataclasses.replace(hardware, compile=False)
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
    if streams % devices:
        raise UserError(f"data.streams={streams} is not a multiple of {devices} devices; choose a multiple of them.")
    rows = resolved.total_batch_tokens // sequence_len
    seconds = cost.training_flops_per_token * resolved.tokens / (flops_per_second * devices)
    if hardware.compile is None:
        saved = seconds * COMPILING_SAVES.get(hardware.accelerator, 0)
        hardware = dataclasses.replace(hardware, compile=saved > COMPILING_SECONDS)
    most = (hardware.tokens_per_device or AUTO_TOKENS) // sequence_len
    sizes = [size for size in divisors(rows // devices) if size <= max(1, most)]
    plan = Plan(model, hardware, resolved, cost, rows, sizes[-1], flops_per_second, holds)
    plan = dataclasses.replace(plan, streaming=streaming, optimizer=optimizer)
    return plan if hardware.tokens_per_device else largest_that_fits(plan, sizes) or plan.with_micro_batch(sizes[0])


def largest_that_fits(plan: Plan, sizes: list[int], factor: float = 1.0) -> Plan | None:
    """With the largest of these micro-batches that the memory has room for; None where it has for none.

    Args:
        sizes: in rows, the smallest first.
        factor: what is held in truth, as a multiple of the plan.
    """

    def is_too_large(rows: int) -> bool:
        return not fits(plan.with_micro_batch(rows).memory_bytes, plan.hardware, factor)

    fitting = bisect.bisect_left(sizes, True, key=is_too_large)
    return plan.with_micro_batch(sizes[fitting - 1]) if fitting else None


def divisors(number: int) -> list[int]:
    """Of a positive number, from 1 to itself."""
    return [size for size in range(1, number + 1) if number % size == 0]
