"""Real runs of train.py in processes of their own, for tests."""

import csv
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.forks import REPOSITORY, Program, run_program

SMALL = (
    "tokenizer=byte", "model.depth=2", "model.n_embd=32", "model.head_dim=16", "model.sequence_len=32",
    "horizon.total_batch_tokens=256", "data.streams=4", "data.buffer_documents=8", "data.num_documents=4096",
    "data.val_documents=64", "data.val_tokens=1024", "horizon.steps=24", "trainer.validate_every_n_steps=8",
    "callbacks.metrics.every_n_steps=1", "hw=cpu", "hw.threads=1", "callbacks.samples=null",
    "callbacks.loss_picture=null", "run.name=test",
)  # fmt: skip
"""A model that takes a moment, with every callback but the samples and the picture."""
PICTURED = tuple(option for option in SMALL if option != "callbacks.loss_picture=null")


STARTED = itertools.count()


def environment_of(runs: Path) -> dict[str, str]:
    """Variables of a training with its runs and caches under `runs`."""
    folders = {"NANOCHAT_PL_RUNS": str(runs), "NANOCHAT_PL_CACHE": str(runs / "cache")}
    return os.environ | folders | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def start_training(*arguments: str, runs: Path) -> subprocess.Popen[str]:
    """Start `python train.py ARGUMENTS` with its runs and caches under `runs`."""
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=REPOSITORY,
        env=environment_of(runs),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train_anew(*arguments: str, runs: Path) -> tuple[int, str]:
    """Run it to its end: exit code and output."""
    process = start_training(*arguments, runs=runs)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def train(*arguments: str, runs: Path, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """The same in a fork of a process that has imported the libraries, which is most of a short training's time.

    Variables that libraries read when imported come too late there.
    """
    [(code, output)] = _ended([start_fork(*arguments, runs=runs, environment=environment)])
    return code, output


def start_fork(
    *arguments: str, runs: Path, environment: dict[str, str] | None = None, launcher: Sequence[str] = ()
) -> "Fork":
    """Start such a fork: `python LAUNCHER train.py ARGUMENTS`."""
    return Fork((*launcher, "train.py", *arguments), runs, runs / f"output-{next(STARTED)}.txt", environment or {})


def train_together(
    world_size: int,
    *arguments: str,
    runs: Path,
    only_rank: dict[int, tuple[str, ...]] | None = None,
    joined: Sequence[int] | None = None,
) -> list[tuple[int, str]]:
    """The same in several processes, which a launcher would have started: exit code and output of each rank.

    Args:
        only_rank: further arguments of single ranks.
        joined: the ranks that are waited for; None: all. The others are killed then.
    """
    return train_placed(ranks(world_size), *arguments, runs=runs, only_rank=only_rank, joined=joined)


def run_together(world_size: int, *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    """Another program in several such processes."""
    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(lambda own: run_program(*arguments, environment=own), ranks(world_size)))


def ranks(world_size: int) -> list[dict[str, str]]:
    """The variables that a launcher sets for each rank."""
    shared = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]


def train_placed(
    variables: list[dict[str, str]],
    *arguments: str,
    runs: Path,
    only_rank: dict[int, tuple[str, ...]] | None = None,
    joined: Sequence[int] | None = None,
) -> list[tuple[int, str]]:
    """The same with the variables of each rank as another launcher sets them."""
    forks = [
        Fork(("train.py", *arguments, *(only_rank or {}).get(rank, ())), runs, runs / f"output-{rank}.txt", own)
        for rank, own in enumerate(variables)
    ]
    return _ended(forks, joined)


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Fork(Program):
    """A training in a fork."""

    def __init__(self, arguments: Sequence[str], runs: Path, output: Path, more: dict[str, str]):
        runs.mkdir(parents=True, exist_ok=True)
        self._output = output
        super().__init__(arguments, environment_of(runs) | more, os.devnull, output, output)

    def communicate(self, timeout: float = 300) -> tuple[str, None]:
        try:
            self.wait(timeout)
        finally:
            text = self._output.read_text() if self._output.exists() else ""  # killed at once
            assert self.returncode is not None, f"It did not end:\n{text}"
        return text, None


def _ended(forks: list[Fork], joined: Sequence[int] | None = None) -> list[tuple[int, str]]:
    awaited = forks if joined is None else [forks[rank] for rank in joined]
    try:
        outputs = [fork.communicate()[0] for fork in awaited]
        return [(fork.returncode or 0, output) for fork, output in zip(awaited, outputs)]
    finally:
        for fork in forks:
            fork.kill()


def losses(run: Path) -> dict[str, dict[str, str]]:
    """step -> its row of metrics.csv, without the columns that depend on the clock."""
    rows: dict[str, dict[str, str]] = {}
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            kept = {name: value for name, value in row.items() if value and not name.startswith("speed/")}
            assert not (rows.get(row["step"], {}).keys() & kept.keys() - {"step"}), f"step {row['step']} stands twice"
            rows.setdefault(row["step"], {}).update(kept)
    return rows
