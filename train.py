"""Train a model: `python train.py [stage=base] [recipe=NAME] [hw=NAME] [experiment=NAME] [key=value ...]`.

Compose the configuration -> check it -> plan -> build -> fit. Every heavy import waits until the arguments are sound.
"""

import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import nanochat_pl
from nanochat_pl.config.compose import CONF_FOLDER, run_name, without_plus
from nanochat_pl.core.errors import EXIT_SIGINT, DivergedError, UserError
from nanochat_pl.core.run_folder import RunFolder

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger("nanochat_pl.train")

AFTER_DIVERGENCE = (
    "Lower horizon.lr_scale or set optim.grad_clip=1.0, and start over with run.fresh=true; the same command would "
    "diverge again."
)


def train(config: "DictConfig", overrides: list[str], started: float) -> str:
    """Train one stage of one run in its folder, from where it is; returns the folder's path.

    Args:
        started: `time.perf_counter()` when this invocation (in a sweep: this job) began.
    """
    from nanochat_pl.config.construct import construct
    from nanochat_pl.config.specs import Specs
    from nanochat_pl.core.logging import logging_to

    specs, stage_spec = Specs.of(config), construct(config.stage, "stage")
    run = RunFolder.of(run_name(config, overrides), stage_spec.name)
    with run.locked(), logging_to(run.log):
        fit(config, specs, stage_spec, run, started)
    return str(run.path)


def fit(config: "DictConfig", specs: Any, stage_spec: Any, run: RunFolder, started: float) -> None:
    """Plan, build and fit; the run folder says at every moment how far it came."""
    import torch

    from nanochat_pl.callbacks.checkpoints import last_good, resume_point
    from nanochat_pl.config.construct import construct, construct_all
    from nanochat_pl.config.resume import find_earlier, finished_message, next_steps, record
    from nanochat_pl.core.invocation import invocation
    from nanochat_pl.planning.plan import measured_matmul_flops_per_second
    from nanochat_pl.stages.stage import Recipe
    from nanochat_pl.tokenizers.cache import cached_tokenizer

    earlier = find_earlier(run, config)
    hardware = specs.hw.detect(earlier.resolved.get("hardware") if earlier else None)
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    trainer_spec = construct(config.trainer, "trainer")
    train_source, val_source = specs.data.build_sources()
    tokenizer = cached_tokenizer(specs.tokenizer, train_source.fingerprint, train_source.texts)
    plan = specs.plan(tokenizer.vocab_size, hardware)
    if earlier and earlier.finished_steps is not None and earlier.finished_steps >= plan.horizon.steps:
        return log.info(finished_message(run, earlier.finished_steps))
    resume_from = resume_point(run.checkpoints) if earlier else None
    speed = measured_matmul_flops_per_second(hardware.accelerator, hardware.compute_dtype, plan.model.n_embd)
    log.info("%s\n%s", run.path, plan.text(speed))
    record(run, config, plan.as_dict(), plan.text(speed))
    run.record_invocation(resumed_from=str(resume_from) if resume_from else None, **invocation())

    data = specs.data.build(
        train_source,
        val_source,
        tokenizer,
        sequence_len=plan.model.sequence_len,
        rows_per_step=plan.rows_per_step,
        micro_batch_rows=plan.micro_batch_rows,
        seed=specs.seed,
    )
    stage = stage_spec.build(
        Recipe(
            model=plan.model,
            optimizer=specs.optim,
            schedule=specs.schedule,
            horizon=plan.horizon,
            accumulation=plan.accumulation,
            token_bytes=torch.from_numpy(tokenizer.token_bytes()).long(),
            seed=specs.seed,
            compile_model=bool(hardware.compile),
        )
    )
    trainer = trainer_spec.build(
        hardware,
        folder=run.path,
        steps=plan.horizon.steps,
        accumulation=plan.accumulation,
        callbacks=construct_all(config.callbacks, "callbacks"),
        loggers=construct_all(config.logger, "logger"),
    )
    with run.recording(stage=stage_spec.name, resumed_from=str(resume_from) if resume_from else None):
        try:
            trainer.fit(stage, datamodule=data, ckpt_path=resume_from, weights_only=True)
        except DivergedError as error:
            raise DivergedError(f"{error} {last_good(run.checkpoints)} {AFTER_DIVERGENCE}") from error
    log.info(next_steps(run))


def main() -> int:
    """Run the command line; returns the exit code (README, "Exit codes")."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    arguments = sys.argv[1:] = without_plus(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them and exiting with 1
    started = [nanochat_pl.STARTED]

    @hydra.main(config_path=str(CONF_FOLDER), config_name="train", version_base="1.3")
    def job(config: "DictConfig") -> str:
        began = started.pop() if started else time.perf_counter()
        return train(config, list(HydraConfig.get().overrides.task), began)

    try:
        job()
    except (HydraException, OmegaConfBaseException) as error:
        from nanochat_pl.config.explain import explain

        return _fail(explain(error, arguments), UserError.exit_code)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        return _fail(str(error), code)
    except KeyboardInterrupt:
        return _fail("Interrupted before training began.", EXIT_SIGINT)
    return 0


def _fail(message: str, code: int) -> int:
    print(f"\n{message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
