"""Real runs of train.py in processes of their own, for tests."""

import csv
import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

SMALL = (
    "tokenizer=byte", "model.depth=2", "model.n_embd=32", "model.head_dim=16", "model.sequence_len=32",
    "horizon.total_batch_tokens=256", "data.streams=4", "data.buffer_documents=8", "data.num_documents=4096",
    "data.val_documents=64", "data.val_tokens=1024", "horizon.steps=24", "trainer.validate_every_n_steps=8",
    "callbacks.metrics.every_n_steps=1", "hw=cpu", "hw.threads=1", "callbacks.samples=null", "run.name=test",
)  # fmt: skip
"""A model that takes a moment, with every callback but the samples."""


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.preloaded"])


def environment_of(runs: Path) -> dict[str, str]:
    """Variables of a training with its runs and caches under `runs`."""
    folders = {"NANOCHAT_PL_RUNS": str(runs), "NANOCHAT_PL_CACHE": str(runs / "cache")}
    return os.environ | folders | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def start_training(*arguments: str, runs: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start `python train.py ARGUMENTS` with its runs and caches under `runs`."""
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=REPOSITORY,
        env=environment_of(runs) | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train_anew(*arguments: str, runs: Path, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Run it to its end: exit code and output."""
    process = start_training(*arguments, runs=runs, environment=environment)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def train(*arguments: str, runs: Path) -> tuple[int, str]:
    """The same in a fork of a process that has imported the libraries, which is most of a short training's time.

    What is registered with `atexit` doesn't run there, and variables that libraries read when imported come too late.
    """
    runs.mkdir(parents=True, exist_ok=True)
    output = runs / "output.txt"
    process = FORKS.Process(target=_run, args=(arguments, environment_of(runs), output))
    process.start()
    process.join(timeout=300)
    code = process.exitcode
    process.kill()
    assert code is not None, f"It did not end:\n{output.read_text()}"
    return code, output.read_text()


def _run(arguments: tuple[str, ...], environment: dict[str, str], output: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(REPOSITORY)
    with output.open("w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.argv = ["train.py", *arguments]
    runpy.run_path("train.py", run_name="__main__")


def losses(run: Path) -> dict[str, dict[str, str]]:
    """step -> its row of metrics.csv, without the columns that depend on the clock."""
    rows: dict[str, dict[str, str]] = {}
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            kept = {name: value for name, value in row.items() if value and not name.startswith("speed/")}
            assert not (rows.get(row["step"], {}).keys() & kept.keys() - {"step"}), f"step {row['step']} stands twice"
            rows.setdefault(row["step"], {}).update(kept)
    return rows
