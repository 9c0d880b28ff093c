"""What of a device's memory a training takes, by what holds it."""

import platform
from typing import Any

from nanochat_pl.core.hardware import Hardware
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.cost import ModelCost
from nanochat_pl.models.execution import Execution
from nanochat_pl.nn.molegrad import DENSE, Streaming
from nanochat_pl.optim.contract import OptimizerSpec
from nanochat_pl.optim.foreign import ForeignSpec
from nanochat_pl.optim.muon import NANOCHAT, WORKSPACE_BYTES, MuonAdamWSpec
from nanochat_pl.planning.trace import trace

STATE = ("weights", "gradients", "optimizer")
MARGIN = 0.1
"""Share of the memory that a plan leaves free."""
ROLLOUT_ROWS = 256
"""Answers at once in stage=rl (stages/rl.py)."""

MMAP_BYTES = 32 << 20
"""From this size on glibc gives each tensor pages of its own, which are given back with it."""
_FRAMEWORK_BYTES = {"cpu": 460_000_000, "cuda": 700_000_000, "mps": 600_000_000}
"""Python, torch and Lightning; on CUDA the context and the libraries' workspaces."""
_WORKSPACES = {"cpu": 3.0, "cuda": 3.5}
"""Muon holds so many times the float32 of the matrices that it updates at once: update, bfloat16 copy, decay, mask."""


def memory_bytes(
    config: Any,
    cost: ModelCost,
    hardware: Hardware,
    micro_batch_rows: int,
    rows_per_device: int,
    holds: str = "text",
    streaming: Streaming = DENSE,
    optimizer: OptimizerSpec = NANOCHAT,
) -> dict[str, int]:
    """The most that a process holds on its device, by what holds it; the sum is the peak.

    Args:
        rows_per_device: of one optimizer step.
        holds: what the data hold: "text", "conversations" or "questions".
    """
    documents = holds == "conversations"
    traced = trace(config, micro_batch_rows, hardware.accelerator, hardware.recompute, documents, streaming)
    state, cache = state_bytes(cost, hardware, streaming, optimizer), 0
    if holds == "questions":
        cache = min(ROLLOUT_ROWS, rows_per_device) * cost.kv_read_bytes(config.sequence_len)
    held = max(traced.peak, _optimizer_workspace(config, cost, hardware, optimizer))
    return state | {
        "activations": traced.activations,
        "logits": traced.peak - traced.activations,
        "workspace": held - traced.peak,  # of the optimizer, beyond what the activations have left
        "cache": max(0, cache - held),
        "allocator": _allocator(config, hardware, sum(state.values()), held),
        "framework": _FRAMEWORK_BYTES[hardware.accelerator],
    }


def state_bytes(
    cost: ModelCost,
    hardware: Hardware,
    streaming: Streaming = DENSE,
    optimizer: OptimizerSpec = NANOCHAT,
) -> dict[str, int]:
    """What one device holds from the first step on."""
    state = {
        "weights": cost.weight_bytes,
        "gradients": cost.weight_bytes,
        "optimizer": optimizer.state_bytes(cost.parameters_by_role, hardware.world_size),
    }
    if isinstance(optimizer, ForeignSpec):  # four bytes beside each element that is kept in two
        state["optimizer"] += 2 * (4 * cost.parameters - cost.weight_bytes)
    if streaming.enabled:
        for weight, left, right in build_model(
            cost.config, "meta", None, Execution(streaming=streaming)
        ).low_rank.values():
            sketches = left.nbytes + right.nbytes
            state["gradients"] += sketches - weight.nbytes
            state["optimizer"] += sketches + (left.nbytes - weight.nbytes) // hardware.world_size
    return state


def fits(memory: dict[str, int], hardware: Hardware, factor: float = 1.0) -> bool:
    """Whether the device has it, so many times, with a margin."""
    return factor * sum(memory.values()) <= (1 - MARGIN) * hardware.chip.memory_bytes


def _optimizer_workspace(config: Any, cost: ModelCost, hardware: Hardware, optimizer: OptimizerSpec) -> int:
    """Muon's, of the matrices that it updates at once, or AdamW's float32 copies of bfloat16 tables."""
    if not isinstance(optimizer, MuonAdamWSpec):
        return 4 * cost.parameters  # torch's optimizers make one temporary of each parameter, unless they are fused
    on = "cuda" if hardware.accelerator == "cuda" else "cpu"
    largest = 4 * 4 * config.n_embd**2
    of_one_shape = config.n_layer * largest // hardware.world_size
    muon = _WORKSPACES[on] * max(largest, min(WORKSPACE_BYTES[on], of_one_shape))
    tables = 0
    if config.compute_dtype == "bfloat16":
        values = cost.parameters_by_role["value_embedding"]
        one = cost.parameters_by_role["embedding"]
        tables = 8 * (max(values, one) if hardware.world_size == 1 else one // hardware.world_size)
    return round(max(muon, tables))


def _allocator(config: Any, hardware: Hardware, state: int, held: int) -> int:
    """What the allocator keeps beside what is asked of it.

    On CPUs, glibc before 2.38 does not use a block that was given back for the next one of the same, aligned, size (its
    bug 14581). The shares are fitted to the peaks of seven shapes of 4 to 8 layers (tests/planning/test_peak.py).
    """
    if hardware.accelerator != "cpu":
        return round(0.05 * held)
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split(".")[:2])) >= (2, 38):
        return round(0.1 * held)
    if 4 * config.padded_vocab_size * config.n_embd >= MMAP_BYTES:
        state = 4 * 12 * config.n_layer * config.n_embd**2 * 3  # of the matrices
    return round(0.25 * state + 0.57 * held)
