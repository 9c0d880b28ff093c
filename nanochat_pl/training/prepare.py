"""From a job to what a Trainer fits: find what is there already, check, plan, build."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nanochat_pl.callbacks.checkpoints import Checkpoints
from nanochat_pl.callbacks.checks import Checks
from nanochat_pl.checkpoint.parent import Parent
from nanochat_pl.checkpoint.saved import is_sound, resume_point, step_of
from nanochat_pl.config.resume import Earlier, find_earlier, finished_message
from nanochat_pl.core.distributed import Processes
from nanochat_pl.core.hardware import Hardware
from nanochat_pl.models.execution import Execution
from nanochat_pl.nn.float8 import LIBRARIES, check_float8
from nanochat_pl.planning.plan import Plan
from nanochat_pl.planning.trial import tried
from nanochat_pl.stages.precision import set_float32_products
from nanochat_pl.stages.stage import Blueprint
from nanochat_pl.training.job import Job

log = logging.getLogger(__name__)


@dataclass
class Prepared:
    """What a Trainer fits.

    Attributes:
        resume_from: the checkpoint to go on from; None: from the beginning.
    """

    plan: Plan
    stage: Any
    data: Any
    resume_from: Path | None

    @property
    def resumed_step(self) -> int | None:
        return step_of(self.resume_from) if self.resume_from else None


def prepare(
    job: Job, processes: Processes, at_the_end: contextlib.ExitStack, callbacks: Sequence[Any]
) -> Prepared | None:
    """All that comes before the first step; None where the run has finished already, which is said.

    Args:
        at_the_end: takes what is to be closed after the training.
        callbacks: of which `Checks` looks at the machine when the plan is made.
    """
    earlier = processes.decided_by_first(lambda: find_earlier(job.run, job.config))
    hardware = set_up(job, processes, earlier)
    with processes.one_by_node():
        sources = job.specs.data.build_sources()
    for source in sources:
        at_the_end.callback(source.close)  # or a thread that waits for the network would hold the process up
    resume_from = processes.decided_by_first(lambda: resume_point(job.run.checkpoints) if earlier else None)
    parent = job.stage_spec.find_parent(job.run, job.config.recipe_name, job.overrides, resume_from is not None)
    if parent:
        job.specs.check_same_model(parent, job.overrides)
    with processes.one_by_node():
        tokenizer = parent.tokenizer() if parent else job.specs.build_tokenizer(sources)
    plan = processes.decided_by_first(
        lambda: job.specs.plan(tokenizer.vocab_size, hardware, parent, sources).on_this_machine()
    )
    if earlier and earlier.finished_steps is not None and earlier.finished_steps >= plan.horizon.steps:
        log.info(finished_message(job.run, job.overrides))
        return None
    plan.check_memory()
    _check_machine(job, processes, plan, resume_from, callbacks)
    if hardware.tokens_per_device is None and hardware.accelerator != "cpu":
        plan = tried(plan, job.specs.optim, processes)
    data = _build_data(job, processes, plan, tokenizer, sources)
    if not earlier:
        data.check_length()
    stage = build_stage(job, plan, tokenizer, parent, resume_from)
    prepared = Prepared(plan, stage, data, resume_from)
    processes.check_alike(
        {"tokenizer": tokenizer.fingerprint, "checkpoint": prepared.resumed_step, "parent": parent and parent.origin()}
    )
    return prepared


def set_up(job: Job, processes: Processes, earlier: Earlier | None) -> Hardware:
    """The hardware to train on, as far as an earlier invocation has decided as it did; torch is told of it."""
    hardware = job.specs.hw.detect(earlier.resolved.get("hardware") if earlier else None)
    if hardware.precision in LIBRARIES:
        check_float8(hardware.accelerator, hardware.precision)
    set_float32_products(hardware.accelerator)
    if threads := processes.threads(hardware):
        torch.set_num_threads(threads)
    return hardware


def _check_machine(
    job: Job, processes: Processes, plan: Plan, resume_from: Path | None, callbacks: Sequence[Any]
) -> None:
    checks = next((callback for callback in callbacks if isinstance(callback, Checks)), None)
    if checks is None:
        return
    keep = next((callback.keep for callback in callbacks if isinstance(callback, Checkpoints)), None)
    step = step_of(resume_from) if resume_from else 0
    is_asked_for = job.specs.hw.accelerator is not None
    processes.decided_by_first(lambda: checks.before(job.run, plan, step, keep, processes.place, is_asked_for))
    if not processes.is_first:
        checks.own_device(job.run, plan, step, processes.place)


def _build_data(job: Job, processes: Processes, plan: Plan, tokenizer: Any, sources: Any) -> Any:
    return job.specs.data.build(
        tokenizer,
        sequence_len=plan.model.sequence_len,
        rows_per_step=plan.rows_per_step,
        micro_batch_rows=plan.micro_batch_rows,
        seed=job.specs.seed,
        rank=processes.place.rank,
        world_size=processes.place.world_size,
        tokenizer_threads=job.specs.hw.loader_threads,
        sources=sources,
    )


def build_stage(job: Job, plan: Plan, tokenizer: Any, parent: Parent | None, resume_from: Path | None) -> Any:
    """The LightningModule, whose weights begin with those of `parent`, where there is one."""
    wanted = job.stage_spec.momentum and not resume_from
    momentum_from = parent.last_checkpoint() if parent and wanted else None
    if wanted and not momentum_from:
        where = f"beside {parent.folder}" if parent else "without stage.init_from"
        log.info("There is no checkpoint %s, so the optimizer begins without momentum (stage.momentum=true).", where)
    if momentum_from and not is_sound(momentum_from):
        log.warning("%s is damaged; this stage begins without the optimizer's momentum.", momentum_from)
        momentum_from = None
    hardware = plan.hardware
    return job.stage_spec.build(
        Blueprint(
            model=plan.model,
            optimizer=job.specs.optim,
            schedule=job.specs.schedule,
            horizon=plan.horizon,
            accumulation=plan.accumulation,
            tokenizer=tokenizer,
            seed=job.specs.seed,
            execution=Execution(
                hardware.attention,
                hardware.recompute,
                float8=hardware.precision == "float8",
                compile=bool(hardware.compile),
                streaming=plan.streaming,
            ),
            parent=parent.folder if parent else None,
            parent_checkpoint=momentum_from,
        )
    )
