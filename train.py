"""Train a model: `python train.py [stage=base] [recipe=NAME] [hw=NAME] [experiment=NAME] [key=value ...]`.

Compose the configuration -> check it -> plan -> build -> fit. Every heavy import waits until the arguments are sound.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

import nanochat_pl
from nanochat_pl.config.compose import CONF_FOLDER, in_sweep, own_config, without_plus
from nanochat_pl.core.errors import EXIT_SIGINT, EndedError, Interrupted
from nanochat_pl.core.imported import find_own_modules
from nanochat_pl.core.paths import keep_compiled_kernels, known_error

if TYPE_CHECKING:
    from omegaconf import DictConfig


def train(config: "DictConfig", overrides: list[str], started: float) -> str:
    """Train one stage of one run in its folder, from where it is; returns the folder's path.

    Several devices on this machine get a process each, in which this function is called again.

    Args:
        started: `time.perf_counter()` when this invocation (in a sweep: this job) began.
    """
    keep_compiled_kernels()
    from nanochat_pl.core.distributed import Processes, told_once_a_node
    from nanochat_pl.core.launch import launch
    from nanochat_pl.core.place import ALONE, place
    from nanochat_pl.training.job import Job

    here = place()
    with told_once_a_node(here):
        job = Job.of(config, overrides, started)
        hw = job.specs.hw
        accelerator = hw.detect().accelerator
    if here is None and hw.devices != 1:
        work = {"config": job.in_plain(), "overrides": overrides, "arguments": sys.argv[1:]}
        if code := launch(__file__, work, hw.devices or 1):
            if in_sweep():
                raise EndedError(code)
            sys.exit(code)
        return str(job.run.path)
    processes = Processes(here or ALONE, accelerator, hw.timeout_seconds)
    from nanochat_pl.training.fit import train_with

    train_with(processes, job)
    return str(job.run.path)


def main() -> int:
    """Run the command line; returns the exit code (README, "Exit codes")."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from nanochat_pl.config.explain import composing
    from nanochat_pl.config.sweep import skip_behind_a_failure
    from nanochat_pl.core.invocation import job_started
    from nanochat_pl.core.launch import own_job

    find_own_modules()
    if work := own_job():
        return _work(work)
    arguments = sys.argv[1:] = without_plus(sys.argv[1:])
    try:
        own = own_config(arguments)[1]
    except Exception as error:
        return _fail(error)
    own_flag = [] if own is None else [f"--config-dir={own}"]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them and exiting with 1

    @hydra.main(config_path=str(CONF_FOLDER), config_name="train", version_base="1.3")
    def job(config: "DictConfig") -> str:
        began = job_started()
        overrides = [*own_flag, *HydraConfig.get().overrides.task]
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
        launched = any(argument.startswith("hydra/launcher=") for argument in arguments)
        queued = " Jobs that are queued go on; `scancel` ends them." if launched else ""
        return _fail(Interrupted(f"Interrupted before training began here.{queued}", EXIT_SIGINT))
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
    known = known_error(error)
    if known is None:
        raise error
    print(f"\n{known}", file=sys.stderr)
    return known.exit_code


if __name__ == "__main__":
    sys.exit(main())
