"""Fit what is prepared; the run folder says at every moment how far it came."""

import contextlib
import logging

from nanochat_pl.callbacks.crew import guarded
from nanochat_pl.callbacks.hang_watch import HangWatch
from nanochat_pl.callbacks.summary import Summary
from nanochat_pl.checkpoint.saved import last_good
from nanochat_pl.config.construct import construct, construct_all
from nanochat_pl.config.resume import next_steps, record
from nanochat_pl.core.distributed import Processes
from nanochat_pl.core.errors import DivergedError
from nanochat_pl.core.invocation import invocation, program
from nanochat_pl.core.logging import logging_to
from nanochat_pl.planning.out_of_memory import out_of_memory_advice
from nanochat_pl.stages.precision import precision_plugins
from nanochat_pl.training.job import Job
from nanochat_pl.training.prepare import prepare

log = logging.getLogger(__name__)

AFTER_DIVERGENCE = (
    "Lower horizon.lr_scale or set optim.grad_clip=1.0, and start over with run.fresh=true; the same command would "
    "diverge again."
)


def train_with(processes: Processes, job: Job) -> None:
    """Train in the run's folder, from where it is; what goes wrong is told by one of the processes."""
    with processes.failing_once(), contextlib.ExitStack() as at_the_end:
        processes.decided_by_first(lambda: _take_folder(job, processes, at_the_end))
        at_the_end.enter_context(logging_to(job.run.log, processes.place.rank))
        processes.check_alike(job.facts() | program())
        fit(job, processes, at_the_end)
    processes.close()


def _take_folder(job: Job, processes: Processes, at_the_end: contextlib.ExitStack) -> None:
    at_the_end.enter_context(job.run.locked())
    if job.config.run.fresh and not processes.started_again:
        job.run.move_aside()


def fit(job: Job, processes: Processes, at_the_end: contextlib.ExitStack) -> None:
    """Prepare and fit; the run folder says at every moment how far it came."""
    trainer_spec = construct(job.config.trainer, "trainer")
    callbacks = [Summary(job.started), *construct_all(job.config.callbacks, "callbacks")]
    if processes.place.world_size > 1:
        callbacks.insert(0, HangWatch(processes, job.specs.hw.timeout_seconds))
    logger_specs = construct_all(job.config.logger, "logger")
    prepared = prepare(job, processes, at_the_end, callbacks)
    if prepared is None:
        return
    run, plan, resumed_step = job.run, prepared.plan, prepared.resumed_step
    facts = invocation()
    if processes.is_first:
        record(run, job.config, plan)
        goal = job.config.run.goal
        run.record_invocation(resumed_step=resumed_step, goal=goal, overrides=job.overrides, **facts)
    log.info("%s\n%s", run.path, plan.text())
    if resumed_step is not None:
        log.info("Going on from step %d (%s).", resumed_step, prepared.resume_from)
    loggers = [guarded(spec.build(run, resumed_step), run) for spec in logger_specs]
    trainer = trainer_spec.build(
        plan.hardware,
        folder=run.path,
        steps=plan.horizon.steps,
        accumulation=plan.accumulation,
        callbacks=[guarded(callback, run) for callback in callbacks],
        loggers=loggers,
        precision=precision_plugins(plan.hardware, plan.horizon.total_batch_tokens),
    )
    facts |= {"parameters": plan.cost.parameters, "world_size": plan.hardware.world_size, "resumed_from": resumed_step}
    with contextlib.ExitStack() as meanwhile:
        for logger in loggers:
            if isinstance(logger, contextlib.AbstractContextManager):  # it wants to know how the training ends
                meanwhile.enter_context(logger)
        if processes.is_first:  # inside the loggers, which may wait for a network when the training has ended
            meanwhile.enter_context(run.recording(stage=job.stage_spec.name, **facts))
        try:
            trainer.fit(prepared.stage, datamodule=prepared.data, ckpt_path=prepared.resume_from, weights_only=True)
        except DivergedError as error:
            raise DivergedError(f"{error} {last_good(run.checkpoints)} {AFTER_DIVERGENCE}") from error
        except (MemoryError, RuntimeError) as error:
            if advice := out_of_memory_advice(plan, job.overrides, error):
                raise advice from error
            raise
    if processes.is_first:  # which alone knows that the summary is written
        log.info(next_steps(run, job.overrides))
