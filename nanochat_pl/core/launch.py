"""A training's own processes, one for each device of this machine, through torch's elastic agent (as torchrun)."""

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nanochat_pl.core.errors import EXIT_MACHINE, MachineError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.api import Std
    from torch.distributed.launcher.api import LaunchConfig

T = TypeVar("T")

JOB = "NANOCHAT_PL_JOB"
"""The variable that names the file with a worker's job."""
SAVING_SECONDS = 300
"""So long the processes may save their state after a signal, before they are killed."""
DAY_SECONDS = 86400
LOOKING_SECONDS = 0.5
"""How often a process looks whether the one that launched it lives."""
PREFIX = "nanochat-pl-"
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""Signals that the processes get from this one: those for which they save their state."""


def launch(script: str, job: dict[str, Any], processes: int) -> int:
    """Run `python script` in so many processes, each of which finds `job` with `own_job`; returns their exit code.

    Their output goes where this process's goes. A signal is passed on to them, and they are waited for. Where one of
    them fails, the others are told to end, and are killed after 30 s (torch's choice).
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, _agent(processes, folder) as config:
        file = Path(folder, "job.json")
        file.write_text(json.dumps(job | {"parent": os.getpid()}), encoding="utf-8")
        os.environ |= {JOB: str(file), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SAVING_SECONDS)}
        try:
            elastic_launch(config, sys.executable)(script)
        except SignalException as stopped:
            return 128 + stopped.sigval
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            if failure.exitcode >= 0:
                return failure.exitcode
            name = signal.Signals(-failure.exitcode).name
            print(
                f"\nThe process of rank {rank} (process id {failure.pid}) was killed by {name}"
                f"{', as the system does when the memory is full' if name == 'SIGKILL' else ''}. "
                "Run the same command again to go on from the last checkpoint.",
                file=sys.stderr,
            )
            return EXIT_MACHINE
    return 0


def in_own_processes(
    task: Callable[..., T | None], arguments: tuple[Any, ...], processes: int, most_seconds: float
) -> T:
    """What `task(*arguments)` returns in the first of so many processes, each of which runs it, silently.

    Args:
        task: a function of a module, behind torch's `@record`.
        most_seconds: after which they are killed.

    Raises:
        MachineError: one of them failed, or took too long; says with what.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    late, ended = threading.Event(), threading.Event()

    def watch() -> None:
        if not ended.wait(most_seconds):
            late.set()
        while not ended.wait(LOOKING_SECONDS):
            for child in multiprocessing.active_children():
                child.kill()

    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, _agent(processes, folder, Std.OUT) as config:
        threading.Thread(target=watch, daemon=True).start()
        try:
            return elastic_launch(config, task)(*arguments)[0]
        except SignalException as stopped:
            if stopped.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + stopped.sigval) from None
        except ChildFailedError as failed:
            if late.is_set():
                raise MachineError(
                    f"The test of {processes} processes came to no end within {most_seconds:.0f} s."
                ) from failed
            rank, failure = failed.get_first_failure()
            message: Any = failure.message
            said = (message["message"] if isinstance(message, dict) else message).strip().splitlines()
            raise MachineError(
                f"The test of {processes} processes failed in rank {rank} (exit code {failure.exitcode}): "
                f"{said[-1][:300] if said else 'no word'}"
            ) from failed
        finally:
            ended.set()


@contextlib.contextmanager
def _agent(processes: int, folder: str, redirected: "Std | None" = None) -> Iterator["LaunchConfig"]:
    """What torch's agent is to start; variables and handlers of signals are afterwards what they were before."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    variables, handlers = dict(os.environ), {kind: signal.getsignal(kind) for kind in PASSED_ON}
    try:
        yield LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=f"nanochat-pl-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            # No other agent asks whether this one lives; a beat at the end would print a traceback (torch 2.13).
            rdzv_configs={"keep_alive_interval": DAY_SECONDS},
            max_restarts=0,
            local_addr="localhost",
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=redirected or Std.NONE),
            signals_to_handle=",".join(kind.name for kind in PASSED_ON),
        )
    finally:
        os.environ.clear()
        os.environ.update(variables)
        for kind, handler in handlers.items():
            signal.signal(kind, handler)


def own_job() -> dict[str, Any] | None:
    """The job of this process, where `launch` has started it."""
    file = os.environ.get(JOB)
    if file is None:
        return None
    job = json.loads(Path(file).read_text(encoding="utf-8"))
    _end_with(job["parent"])
    return job


def _end_with(parent: int) -> None:
    """Send SIGTERM to this process when its parent dies, in whatever way; else it would train on unseen.

    Once: Linux's own PR_SET_PDEATHSIG comes for every thread of the parent.
    """

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOKING_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, name="parent", daemon=True).start()
