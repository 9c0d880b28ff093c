"""A real step, where the plan alone chose the micro-batch: whether the device's memory has room for it."""

import gc
import logging
from typing import Any

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from nanochat_pl.core.distributed import Processes
from nanochat_pl.core.paths import is_out_of_memory
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.execution import Execution
from nanochat_pl.optim.contract import OptimizerSpec
from nanochat_pl.optim.groups import MATRIX
from nanochat_pl.optim.sharding import Sharding
from nanochat_pl.planning.plan import Plan

log = logging.getLogger(__name__)


def tried(plan: Plan, optimizer: OptimizerSpec, processes: Processes | None = None) -> Plan:
    """The plan, with a micro-batch of half the size (and so on) where a real step does not fit; on its own accelerator.

    The memory is given back.

    Args:
        processes: of the run, all of which call this: each tries its own share, and one that it does not fit decides.
    """
    processes = processes or Processes()
    execution = Execution(plan.hardware.attention, plan.hardware.recompute, streaming=plan.streaming)
    if processes.place.world_size > 1:  # what a library keeps for sending is there from now on, as in the training
        torch.distributed.all_reduce(torch.zeros(1, device=plan.hardware.accelerator))
    while not processes.all_say(step_fits(plan, optimizer, execution, processes.place.rank)):
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


def step_fits(plan: Plan, optimizer: OptimizerSpec, execution: Execution, rank: int = 0) -> bool:
    """Whether micro-batches and steps of this rank's share of the optimizer pass without running out of memory."""
    device = torch.device(plan.hardware.accelerator)
    try:
        _step(plan, optimizer, execution, device, rank)
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


def share_of_optimizer(model: Any, spec: OptimizerSpec, width: int, rank: int, world_size: int) -> Optimizer:
    """What one of several ranks holds and updates, without the others: no part is sent.

    The model's parameters get the gradients that DDP's buckets hold in a training; its own are views of them.
    """
    roles = model.param_roles()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sharding = Sharding(
        ProcessGroup(rank, world_size) if world_size > 1 and spec.is_sharded else None,  # type: ignore[call-arg]  # its stub has one only
        matrices=[p for name, p in named.items() if roles[name] == MATRIX],
        others=[p for name, p in named.items() if roles[name] != MATRIX],
    )
    parts = {}
    for name, p in named.items():
        p.grad = torch.zeros_like(p)
        if sharding.owns(p):
            parts[name] = nn.Parameter(sharding.own(p, p.detach()))
            parts[name].grad = sharding.own(p, p.grad)
    streaming = model.execution.streaming.optimizer_values()
    return spec.build(parts.items(), roles, width=width, low_rank=model.low_rank, low_rank_values=streaming)


def _step(plan: Plan, spec: OptimizerSpec, execution: Execution, device: torch.device, rank: int) -> None:
    config = plan.model
    model = build_model(config, device, 0, execution)
    optimizer = share_of_optimizer(model, spec, config.n_embd, rank, plan.hardware.world_size)
    ids = torch.randint(config.vocab_size, (plan.micro_batch_rows, config.sequence_len), device=device)
    documents = ids.cumsum(1) if plan.holds == "conversations" else None
    for accumulated in (False, True, True):
        model(ids, ids, documents=documents).backward()
        if accumulated:
            optimizer.step()
