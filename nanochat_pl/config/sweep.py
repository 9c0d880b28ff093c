"""A sweep: a failed job is named at once and the others go on; at the end stands a table, and the spread over seeds."""

import atexit
import contextlib
import gc
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from nanochat_pl.checkpoint.header import STAGES
from nanochat_pl.config.compose import in_sweep, run_name
from nanochat_pl.core.errors import EXIT_DIVERGED, EXIT_SIGINT, EXIT_SIGTERM, EXIT_SIGUSR2, EXIT_USER
from nanochat_pl.core.paths import known_error
from nanochat_pl.core.place import place
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.sweep_folder import METRICS, Job, SweepFolder, first_sentence, job_of, spread_over_seeds

EXIT_UNKNOWN = 1
"""Of an error that nobody foresaw, as Python's own."""
LOOK_EVERY_SECONDS = 2.0

_ENDED = {"failed": "failed", "diverged": "diverged", "interrupted": "was interrupted"}
_STATUS = {EXIT_DIVERGED: "diverged"} | dict.fromkeys((EXIT_SIGINT, EXIT_SIGTERM, EXIT_SIGUSR2), "interrupted")


class SkippedError(RuntimeError):
    """This job of a sweep cannot begin: the stage before it failed."""


def skip_behind_a_failure(config: DictConfig, overrides: list[str]) -> None:
    """In a sweep over stages: see that no earlier stage of this job's run failed in it.

    Raises:
        SkippedError: one did, and this stage would begin with its model.
    """
    if not in_sweep() or config.stage.name == STAGES[-1] or config.stage.get("init_from") is not None:
        return
    own = _run_folder(config, overrides).path
    earlier = STAGES[STAGES.index(own.name) + 1 :]
    for job in SweepFolder(HydraConfig.get().sweep.dir).jobs():
        folder = Path(job["folder"])
        if folder.parent == own.parent and folder.name in earlier and job["status"] in _ENDED:
            raise SkippedError(f"Its {folder.name} stage {_ENDED[job['status']]}.")


class SweepSummary(Callback):
    """Keeps sweep.json, names what failed, prints the table, and ends the program with the first failed job's code.

    Its copies run in the processes of the jobs where a launcher starts such; they write to the same sweep.json.
    """

    def __init__(self) -> None:
        self._sweep: SweepFolder | None = None  # None: a single run
        self._swept: list[str] = []
        self._command: list[str] = []
        self._jobs_are_here = True
        self._watch: _Watch | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_watch": None}  # a thread does not travel to another process

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if place() is not None:
            _refuse(
                "A sweep starts the processes of each job itself: run `python train.py -m ...` with hw.devices=N, "
                "without torchrun or srun (SLURM: docs/cluster.md)."
            )
        given = _overrides(config)
        params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
        parsed = OverridesParser.create().parse_overrides([*given, *params])
        self._swept = [override.get_key_element() for override in parsed if override.is_sweep_override()]
        self._command = sys.argv
        self._jobs_are_here = config.hydra.launcher._target_.endswith(".BasicLauncher")
        self._sweep = SweepFolder(config.hydra.sweep.dir)
        if not self._jobs_are_here:
            if "stage" in self._swept and config.hydra.sweeper.get("max_batch_size") is None:
                _refuse(
                    "This launcher runs all jobs of a sweep at once, but each stage begins with the model of the one "
                    "before. Give one command for each stage: first stage=base, and when it is finished the next."
                )
            self._watch = _Watch(self._sweep, self._swept)
        self._sweep.begin(given)
        atexit.register(self._at_exit)  # at the program's end and not at the sweep's: an interrupt ends both

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if self._sweep is not None:
            gc.collect()  # the model of the job before, which a failure may have left in a cycle
            sys.argv = self._command  # in a process of its own: for the records
            self._record(config, "running")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if self._sweep is None:
            return
        if job_return.status == JobStatus.COMPLETED:
            self._record(config, "finished", 0)
            return
        error = job_return._return_value
        status, exit_code, text = _ending(error)
        if exit_code == EXIT_SIGUSR2 and not self._jobs_are_here:
            with contextlib.suppress(RuntimeError):  # which the launcher raises where the job had its last try
                signal.raise_signal(signal.SIGUSR2)  # the state is saved: the launcher ends, and queues the job again
        job = self._record(config, status, exit_code, text)
        # Hydra would end the sweep at the error, whose traceback keeps the model in memory and cannot be pickled.
        job_return.status, job_return.return_value = JobStatus.COMPLETED, None
        if exit_code == EXIT_UNKNOWN:
            traceback.print_exception(error)
        tell(job, self._swept)
        if status == "interrupted" and self._jobs_are_here:
            sys.exit(exit_code)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if self._watch is not None:
            self._watch.end()
        assert self._sweep is not None
        if "stage" in self._swept:
            _write_reports(self._sweep.jobs())
        failed = [job for job in self._sweep.jobs() if job["status"] in _ENDED]
        if failed:
            sys.exit(failed[0]["exit_code"])

    def _record(self, config: DictConfig, status: str, exit_code: int | None = None, error: str = "") -> Job:
        overrides, number = _overrides(config), config.hydra.job.num
        job = job_of(_run_folder(config, overrides), overrides, status, exit_code, error)
        assert self._sweep is not None
        self._sweep.record(number, **job)
        return {"job": number} | job

    def _at_exit(self) -> None:
        assert self._sweep is not None
        jobs = self._sweep.jobs()
        if self._jobs_are_here and jobs and jobs[-1]["status"] == "running":  # interrupted where nothing was trained
            jobs[-1]["status"] = "interrupted"
            self._sweep.record(**jobs[-1])
        print_table(jobs)


def _write_reports(jobs: list[Job]) -> None:
    """Of each run whose stages were trained."""
    from nanochat_pl.reporting.contents import build_report
    from nanochat_pl.reporting.page import write_report
    from nanochat_pl.reporting.records import load_run

    for folder in dict.fromkeys(Path(job["folder"]).parent for job in jobs if job["status"] == "finished"):
        try:
            page, _ = write_report(build_report(load_run(str(folder))), folder, folder)
            print(f"Report: {page}")
        except Exception as error:  # of which Hydra would make a warning, without the failed jobs' exit code
            print(f"No report of {folder}: {error}", file=sys.stderr)


def _refuse(why: str) -> None:
    print(why, file=sys.stderr)
    sys.exit(EXIT_USER)  # of a callback's exceptions, Hydra would make a warning


class _Watch(threading.Thread):
    """Names the failures of jobs that run elsewhere, as they appear in sweep.json."""

    def __init__(self, sweep: SweepFolder, swept: list[str]) -> None:
        super().__init__(daemon=True)
        self._sweep, self._swept = sweep, swept
        self._told: set[int] = set()
        self._is_over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._is_over.wait(LOOK_EVERY_SECONDS):
            self._tell_new()

    def end(self) -> None:
        """Name what is left."""
        self._is_over.set()
        self.join()
        self._tell_new()

    def _tell_new(self) -> None:
        for job in self._sweep.jobs():
            if job["job"] not in self._told and job["status"] in (*_ENDED, "skipped"):
                self._told.add(job["job"])
                tell(job, self._swept)


def tell(job: Job, swept: list[str]) -> None:
    """Name a job that did not finish: its overrides of the swept options, why, and where it is."""
    own = [override for override in job["overrides"] if override.partition("=")[0] in swept]
    name = f"Job {job['job']} ({' '.join(own)})"
    if job["status"] == "skipped":
        print(f"\n{name} is skipped. {job['error']}", file=sys.stderr)
    else:
        how = f"{_ENDED[job['status']]}, exit code {job['exit_code']}; its folder: {job['folder']}"
        print(f"\n{job['error']}\n{name} {how}", file=sys.stderr)


def print_table(jobs: list[Job]) -> None:
    """The jobs with their results, and what failed."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not jobs:
        return
    shared = list(set.intersection(*(set(job["overrides"]) for job in jobs))) if len(jobs) > 1 else []
    table = Table(title="Sweep", caption=Text(" ".join(sorted(shared))))
    table.add_column("job")
    table.add_column("overrides", overflow="fold")
    for head in ("status", "val bpb", "train loss", "tok/s", "seconds"):
        table.add_column(head, no_wrap=True)
    numbers = ("{:.4f}", "{:.4f}", "{:,.0f}", "{:.0f}")
    for job in jobs:
        cells = [form.format(job[name]) if job.get(name) is not None else "-" for form, name in zip(numbers, METRICS)]
        status = Text(str(job["status"]), style="" if job["status"] == "finished" else "red")
        table.add_row(str(job["job"]), Text(_own(job["overrides"], shared)), status, *cells)
    for row in spread_over_seeds([job for job in jobs if job["status"] == "finished"]):
        spread = [row.get(name) for name in METRICS]
        for title, key in ((f"mean of {row['seeds']} seeds", "mean"), ("± standard deviation", "standard_deviation")):
            cells = [form.format(of[key]) if of else "-" for form, of in zip(numbers, spread)]
            name = f"{_own(row['overrides'], shared)} {title}" if key == "mean" else title
            table.add_row("", Text(name.strip(), style="bold"), "", *cells)
    console = Console()
    console.print(table)
    for job in jobs:
        if job["status"] not in ("finished", "running"):
            how = f"Job {job['job']} {job['status']}: {first_sentence(job.get('error', 'before it began'))}"
            console.print(Text(f"{how}\n  {job['folder']}"), soft_wrap=True)


def _own(overrides: list[str], shared: list[str]) -> str:
    return " ".join(override for override in overrides if override not in shared)


def _overrides(config: DictConfig) -> list[str]:
    """As they were given: `run.name=n${seed}` is not for this configuration to resolve."""
    overrides = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    return list(map(str, overrides))


def _run_folder(config: DictConfig, overrides: list[str]) -> RunFolder:
    return RunFolder.of(run_name(config, overrides), config.stage.name)


def _ending(error: BaseException) -> tuple[str, int | None, str]:
    """Status, exit code and what to say."""
    if isinstance(error, SkippedError):
        return "skipped", None, str(error)
    known = known_error(error)
    if known is None:
        return "failed", EXIT_UNKNOWN, f"{type(error).__name__}: {error}"
    return _STATUS.get(known.exit_code, "failed"), known.exit_code, str(known)
