"""A training's speed: a few of its steps, real in all but the callbacks, measured and traced."""

import contextlib
import dataclasses
from pathlib import Path

from nanochat_pl.callbacks.bench import Bench, Measured
from nanochat_pl.config.compose import compose, run_name
from nanochat_pl.config.construct import construct
from nanochat_pl.config.explain import composing
from nanochat_pl.core.distributed import Processes
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.place import ALONE
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.data.synthetic import SyntheticData
from nanochat_pl.planning.plan import Plan
from nanochat_pl.planning.trial import tried
from nanochat_pl.stages.precision import precision_plugins
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.training.job import Job
from nanochat_pl.training.prepare import Prepared, build_stage, prepare, set_up

STAGE = "bench"
"""Of the run's folder, the name of this one's."""


def run_bench(
    overrides: list[str], warmup: int, steps: int, traced: int, synthetic: bool
) -> tuple[Plan, Measured, Path]:
    """Train on one device, and throw the model away.

    Args:
        overrides: as for train.py.
        synthetic: train on random ids; neither the data nor their tokenizer need be there.

    Returns:
        What was trained, what it took, and the file of the trace.

    Raises:
        UserError, MachineError: as a training.
    """
    overrides = [*overrides, "hw.devices=1", "hw.nodes=1"]
    with composing(overrides):
        job = Job.of(compose(overrides), overrides, started=0.0)
    if synthetic and job.specs.data.holds == "questions":
        raise UserError(f"stage={job.config.stage.name} makes its own data; leave --synthetic out.")
    job = dataclasses.replace(job, run=RunFolder.of(run_name(job.config, overrides), STAGE))
    hw = job.specs.hw
    processes = Processes(ALONE, hw.detect().accelerator, hw.timeout_seconds)
    with contextlib.ExitStack() as at_the_end:
        prepared = _synthetic(job, processes) if synthetic else prepare(job, processes, at_the_end, [])
        assert prepared is not None, "nothing is ever finished in this folder"
        plan = prepared.plan
        bench = Bench(warmup, steps, traced, job.run.path / "trace.json")
        trainer = construct(job.config.trainer, "trainer").build(
            plan.hardware,
            folder=job.run.path,
            steps=warmup + steps + traced,
            accumulation=plan.accumulation,
            callbacks=[bench],
            loggers=[],
            precision=precision_plugins(plan.hardware, plan.horizon.total_batch_tokens),
        )
        trainer.limit_val_batches = 0
        trainer.fit(prepared.stage, datamodule=prepared.data)
    return plan, bench.measured, job.run.path / "trace.json"


def _synthetic(job: Job, processes: Processes) -> Prepared:
    plan = job.specs.plan(job.specs.planned_vocab_size(), set_up(job, processes, None)).on_this_machine()
    plan.check_memory()
    if plan.hardware.tokens_per_device is None and plan.hardware.accelerator != "cpu":
        plan = tried(plan, job.specs.optim, processes)
    model = plan.model
    data = SyntheticData(model.vocab_size, plan.micro_batch_rows, model.sequence_len, job.specs.seed)
    return Prepared(plan, build_stage(job, plan, ByteTokenizer(), None, None), data, None)
