"""Train a model: `python train.py [stage=base] [recipe=NAME] [hw=NAME] [experiment=NAME] [key=value ...]`.

Compose the configuration -> check it -> plan -> build -> fit. Every heavy import waits until the arguments are sound.
"""

import contextlib
import dataclasses
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import nanochat_pl
from nanochat_pl.config.compose import CONF_FOLDER, run_name, without_plus
from nanochat_pl.core.errors import EXIT_SIGINT, DivergedError, EndedError, Interrupted, UserError
from nanochat_pl.core.paths import keep_compiled_kernels, machine_error
from nanochat_pl.core.run_folder import RunFolder

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nanochat_pl.config.specs import Specs
    from nanochat_pl.core.distributed import Processes

log = logging.getLogger("nanochat_pl.train")

AFTER_DIVERGENCE = (
    "Lower horizon.lr_scale or set optim.grad_clip=1.0, and start over with run.fresh=true; the same command would "
    "diverge again."
)


def train(config: "DictConfig", overrides: list[str], started: float) -> str:
    """Train one stage of one run in its folder, from where it is; returns the folder's path.

    Several devices on this machine get a process each, in which this function is called again.

    Args:
        started: `time.perf_counter()` when this invocation (in a sweep: this job) began.
    """
    keep_compiled_kernels()
    from omegaconf import OmegaConf

    from nanochat_pl.config.construct import construct
    from nanochat_pl.config.resume import flat
    from nanochat_pl.config.specs import Specs
    from nanochat_pl.config.sweep import in_sweep
    from nanochat_pl.core.distributed import Processes
    from nanochat_pl.core.invocation import program
    from nanochat_pl.core.launch import launch
    from nanochat_pl.core.logging import logging_to
    from nanochat_pl.core.place import ALONE, place, placed

    specs, stage_spec = Specs.of(config), construct(config.stage, "stage")
    if specs.data.holds != stage_spec.trains_on:
        fitting = {"text": "data=tiny", "conversations": "data=chats", "questions": "data=prompts"}
        raise UserError(
            f"stage={stage_spec.name} trains on {stage_spec.trains_on}, but the data of this command hold "
            f"{specs.data.holds} (by data=, or by its experiment). Choose {fitting[stage_spec.trains_on]}, or another "
            "stage."
        )
    run = RunFolder.of(run_name(config, overrides), stage_spec.name)
    here = place()
    specs = dataclasses.replace(specs, hw=placed(specs.hw, here))
    if here is None and specs.hw.devices != 1:
        specs.hw.detect()  # or every process would say what is missing here
        in_plain = OmegaConf.to_container(config, resolve=True)
        job = {"config": in_plain, "overrides": overrides, "arguments": sys.argv[1:]}
        if code := launch(__file__, job, specs.hw.devices or 1):
            if in_sweep():
                raise EndedError(code)
            sys.exit(code)
        return str(run.path)
    processes = Processes(here or ALONE, specs.hw.detect().accelerator, specs.hw.timeout_seconds)
    with processes.failing_once(), contextlib.ExitStack() as at_the_end:
        if processes.is_first:
            at_the_end.enter_context(run.locked())
            if config.run.fresh and not processes.place.restarts:
                run.move_aside()
        at_the_end.enter_context(logging_to(run.log, processes.place.rank))
        processes.check_alike(flat(OmegaConf.to_container(config, resolve=True)) | program())
        fit(config, specs, stage_spec, run, overrides, started, processes, at_the_end)
    processes.close()
    return str(run.path)


def fit(
    config: "DictConfig",
    specs: "Specs",
    stage_spec: Any,
    run: RunFolder,
    overrides: list[str],
    started: float,
    processes: "Processes",
    at_the_end: contextlib.ExitStack,
) -> None:
    """Plan, build and fit; the run folder says at every moment how far it came."""
    import torch

    from nanochat_pl.callbacks.checkpoints import is_sound, last_good, resume_point, step_of
    from nanochat_pl.callbacks.hang_watch import HangWatch
    from nanochat_pl.callbacks.summary import Summary
    from nanochat_pl.config.construct import construct, construct_all
    from nanochat_pl.config.resume import find_earlier, finished_message, next_steps, record
    from nanochat_pl.core.invocation import invocation
    from nanochat_pl.models.execution import Execution
    from nanochat_pl.nn.float8 import check_float8
    from nanochat_pl.planning.out_of_memory import out_of_memory_advice
    from nanochat_pl.planning.trial import tried
    from nanochat_pl.stages.precision import precision_plugins, set_float32_products
    from nanochat_pl.stages.stage import Blueprint

    trainer_spec = construct(config.trainer, "trainer")
    callbacks = [Summary(started), *construct_all(config.callbacks, "callbacks")]
    if processes.place.world_size > 1:
        callbacks.insert(0, HangWatch(processes, specs.hw.timeout_seconds))
    logger_specs = construct_all(config.logger, "logger")
    earlier = processes.decided_by_first(lambda: find_earlier(run, config))
    hardware = specs.hw.detect(earlier.resolved.get("hardware") if earlier else None)
    if hardware.precision == "float8":
        check_float8(hardware.accelerator)
    set_float32_products(hardware.accelerator)
    if threads := processes.threads(hardware):
        torch.set_num_threads(threads)
    with processes.one_by_node():
        sources = specs.data.build_sources()
    for source in sources:
        at_the_end.callback(source.close)  # or a thread that waits for the network would hold the process up
    resume_from = processes.decided_by_first(lambda: resume_point(run.checkpoints) if earlier else None)
    parent = stage_spec.find_parent(run, config.recipe_name, overrides, resume_from is not None)
    if parent:
        specs.check_same_model(parent, overrides)
    with processes.one_by_node():
        tokenizer = parent.tokenizer() if parent else specs.build_tokenizer(sources)
    plan = processes.decided_by_first(
        lambda: specs.plan(tokenizer.vocab_size, hardware, parent, sources).on_this_machine()
    )
    if earlier and earlier.finished_steps is not None and earlier.finished_steps >= plan.horizon.steps:
        return log.info(finished_message(run, overrides))
    plan.check_memory()
    if hardware.tokens_per_device is None and hardware.accelerator != "cpu":
        planned = plan
        plan = processes.decided_by_first(lambda: tried(planned, specs.optim))

    data = specs.data.build(
        tokenizer,
        sequence_len=plan.model.sequence_len,
        rows_per_step=plan.rows_per_step,
        micro_batch_rows=plan.micro_batch_rows,
        seed=specs.seed,
        rank=processes.place.rank,
        world_size=processes.place.world_size,
        tokenizer_threads=specs.hw.loader_threads,
        sources=sources,
    )
    if not earlier:
        data.check_length()
    parent_checkpoint = parent.last_checkpoint() if parent and stage_spec.momentum and not resume_from else None
    if parent_checkpoint and not is_sound(parent_checkpoint):
        log.warning("%s is damaged; this stage begins without the optimizer's momentum.", parent_checkpoint)
        parent_checkpoint = None
    stage = stage_spec.build(
        Blueprint(
            model=plan.model,
            optimizer=specs.optim,
            schedule=specs.schedule,
            horizon=plan.horizon,
            accumulation=plan.accumulation,
            tokenizer=tokenizer,
            seed=specs.seed,
            execution=Execution(
                plan.hardware.attention,
                plan.hardware.recompute,
                float8=plan.hardware.precision == "float8",
                compile=bool(plan.hardware.compile),
            ),
            parent=parent.folder if parent else None,
            parent_checkpoint=parent_checkpoint,
        )
    )
    resumed_step = step_of(resume_from) if resume_from else None
    processes.check_alike(
        {"tokenizer": tokenizer.fingerprint, "checkpoint": resumed_step, "parent": parent and parent.origin()}
    )
    facts = invocation()
    if processes.is_first:
        record(run, config, plan)
        run.record_invocation(resumed_step=resumed_step, **facts)
    log.info("%s\n%s", run.path, plan.text())
    if resume_from:
        log.info("Going on from step %d (%s).", resumed_step, resume_from)
    trainer = trainer_spec.build(
        hardware,
        folder=run.path,
        steps=plan.horizon.steps,
        accumulation=plan.accumulation,
        callbacks=callbacks,
        loggers=[spec.build(run, resumed_step) for spec in logger_specs],
        precision=precision_plugins(hardware, plan.horizon.total_batch_tokens),
    )
    facts |= {"parameters": plan.cost.parameters, "world_size": hardware.world_size, "resumed_from": resumed_step}
    with run.recording(stage=stage_spec.name, **facts) if processes.is_first else contextlib.nullcontext():
        try:
            trainer.fit(stage, datamodule=data, ckpt_path=resume_from, weights_only=True)
        except DivergedError as error:
            raise DivergedError(f"{error} {last_good(run.checkpoints)} {AFTER_DIVERGENCE}") from error
        except (MemoryError, RuntimeError) as error:
            if advice := out_of_memory_advice(plan, overrides, error):
                raise advice from error
            raise
    if processes.is_first:  # which alone knows that the summary is written
        log.info(next_steps(run, overrides))


def main() -> int:
    """Run the command line; returns the exit code (README, "Exit codes")."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from nanochat_pl.config.explain import composing
    from nanochat_pl.config.sweep import in_sweep, skip_behind_a_failure
    from nanochat_pl.core.invocation import job_started
    from nanochat_pl.core.launch import own_job

    if work := own_job():
        return _work(work)
    arguments = sys.argv[1:] = without_plus(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them and exiting with 1

    @hydra.main(config_path=str(CONF_FOLDER), config_name="train", version_base="1.3")
    def job(config: "DictConfig") -> str:
        began = job_started()
        overrides = list(HydraConfig.get().overrides.task)
        try:
            skip_behind_a_failure(config, overrides)
            return train(config, overrides, began)
        except Exception as error:
            if in_sweep():
                raise  # SweepSummary tells it, and the sweep goes on
            # Left as SystemExit, which Hydra passes on at once: it would bury the message.
            sys.exit(_fail(error))

    try:
        with composing(arguments):
            job()
    except KeyboardInterrupt:
        return _fail(Interrupted("Interrupted before training began.", EXIT_SIGINT))
    except Exception as error:
        return _fail(error)
    return 0


def _work(job: dict[str, Any]) -> int:
    """What `train` has started in a process of its own."""
    from omegaconf import OmegaConf

    sys.argv[1:] = job["arguments"]
    try:
        train(OmegaConf.create(job["config"]), job["overrides"], nanochat_pl.STARTED)
    except Exception as error:
        return _fail(error)
    return 0


def _fail(error: Exception) -> int:
    """Print the paragraph of an error that documents its exit code, and return that; raise any other error."""
    known = error if hasattr(error, "exit_code") else machine_error(error)
    if known is None:
        raise error
    print(f"\n{known}", file=sys.stderr)
    return known.exit_code


if __name__ == "__main__":
    sys.exit(main())
