"""A real step, where the plan alone chose the micro-batch: whether the device's memory has room for it."""

import gc
import logging
from typing import Any

import torch

from nanochat_pl.core.paths import is_out_of_memory
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.execution import Execution
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.planning.plan import Plan

log = logging.getLogger(__name__)


def tried(plan: Plan, optimizer: MuonAdamWSpec) -> Plan:
    """The plan, with a micro-batch of half the size (and so on) where a real step does not fit; on its own accelerator.

    The memory is given back.
    """
    execution = Execution(plan.hardware.attention, plan.hardware.recompute)
    while not step_fits(plan, optimizer, execution):
        smaller = plan.smaller()
        if smaller is None:
            return plan  # the training itself will say so
        log.info(
            "A micro-batch of %d rows does not fit into the memory; taking %d.",
            plan.micro_batch_rows,
            smaller.micro_batch_rows,
        )
        plan = smaller
    return plan


def step_fits(plan: Plan, optimizer: MuonAdamWSpec, execution: Execution) -> bool:
    """Whether micro-batches and steps of the optimizer pass without running out of memory."""
    device = torch.device(plan.hardware.accelerator)
    try:
        _step(plan.model, optimizer, execution, device, plan.micro_batch_rows, plan.holds == "conversations")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        elif device.type == "mps":
            torch.mps.empty_cache()
    return True


def _step(
    config: Any, spec: MuonAdamWSpec, execution: Execution, device: torch.device, rows: int, documents: bool
) -> None:
    model = build_model(config, device, 0, execution)
    optimizer = spec.build(model.named_parameters(), model.param_roles(), width=config.n_embd)
    ids = torch.randint(config.vocab_size, (rows, config.sequence_len), device=device)
    for accumulated in (False, True, True):
        model(ids, ids, documents=ids.cumsum(1) if documents else None).backward()
        if accumulated:
            optimizer.step()
