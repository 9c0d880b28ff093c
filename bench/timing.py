"""What the measurements share: child processes that take turns, medians, tables of ratios."""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HANDLE = "BENCH_HANDLE"
sys.path.insert(0, str(ROOT))


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder for everything that a measurement writes; it goes and children end on SIGTERM too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="nanochat_pl_bench_", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def environment(folder: Path, threads: int | None = None, *more_paths: Path, **values: str) -> dict[str, str]:
    """Of a child: runs, caches and compiled kernels in `folder`; our packages and `more_paths` importable."""
    paths = [str(path) for path in (*more_paths, ROOT, ROOT / "bench")]
    ours = {
        "NANOCHAT_PL_RUNS": str(folder / "runs"),
        "NANOCHAT_PL_CACHE": str(folder / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
    }
    if threads:
        ours["OMP_NUM_THREADS"] = str(threads)
    return {**os.environ, **ours, **values}


class Child:
    """A process of its own, whose output goes to a file.

    Args:
        command: arguments of the Python interpreter.
    """

    def __init__(self, command: list[str], env: dict[str, str], log: Path, cwd: Path = ROOT, pass_fds: tuple = ()):
        self.log = log
        self.started = time.perf_counter()
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                env=env,
                cwd=cwd,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                pass_fds=pass_fds,
                start_new_session=True,
            )

    def seconds_to_line(self, text: str) -> float:
        """Until the output holds `text`."""
        while text not in self.log.read_text(errors="replace"):
            if self.process.poll() is not None and text not in self.log.read_text(errors="replace"):
                raise self.failure()
            time.sleep(0.02)
        return self.age()

    def age(self) -> float:
        """Seconds since the process was started."""
        return time.perf_counter() - self.started

    def peak_bytes(self) -> int:
        """Wait for the end; the most memory that the process held."""
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode:
            raise self.failure()
        return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def failure(self) -> RuntimeError:
        tail = self.log.read_text(errors="replace")[-3000:]
        return RuntimeError(f"{' '.join(self.process.args)} ended early:\n{tail}")  # type: ignore[arg-type]

    def close(self) -> None:
        """End the process and those that it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Worker(Child):
    """A child that does a piece of work each time it is asked to, and rests in between."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path, cwd: Path = ROOT):
        self.connection, theirs = Pipe()
        handle = theirs.fileno()
        super().__init__(command, {**env, HANDLE: str(handle)}, log, cwd, pass_fds=(handle,))
        theirs.close()

    def answer(self) -> Any:
        """The next message of the child."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self.failure() from error

    def ask(self, question: Any) -> Any:
        self.connection.send(question)
        return self.answer()


def parent() -> Connection:
    """In a child: the connection to the process that asks."""
    return Connection(int(os.environ[HANDLE]))


def serve(handle: Callable[[Any], Any]) -> None:
    """In a child: answer every question with `handle(question)` until the parent is gone."""
    connection = parent()
    connection.send("ready")
    while True:
        try:
            question = connection.recv()
        except EOFError:
            return
        connection.send(handle(question))


def in_turn(repetitions: int, measures: dict[str, Callable[[], float]]) -> dict[str, float]:
    """The median of each measure; they take turns, so that a slow minute of the machine hits all of them."""
    results: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(repetitions):
        for name, measure in measures.items():
            results[name].append(measure())
    return {name: statistics.median(values) for name, values in results.items()}


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        goal: what ours / theirs should reach: at least, where more is better (a rate), else at most.
        limit: what ours should not exceed by itself.
    """

    work: str
    unit: str
    theirs: float | None
    ours: float
    more_is_better: bool = True
    goal: float | None = None
    limit: float | None = None

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        ratio = self.ours / self.theirs if self.theirs else None
        goal, reached = "", True
        if self.goal is not None and ratio is not None:
            goal = f"{'>=' if self.more_is_better else '<='} {self.goal:g}x"
            reached = ratio >= self.goal if self.more_is_better else ratio <= self.goal
        if self.limit is not None:
            goal, reached = f"<= {self.limit:g} {self.unit}", self.ours <= self.limit
        verdict = ("yes" if reached else "no") if goal else ""
        theirs = "" if self.theirs is None else f"{self.theirs:,.4g}"
        return self.work, theirs, f"{self.ours:,.4g}", self.unit, f"{ratio:.2f}x" if ratio else "", goal, verdict


def print_table(title: str, peer: str, rows: list[Row]) -> None:
    """Print the comparisons."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for name in ("work", peer, "ours", "unit", "ratio", "goal", "reached"):
        table.add_column(name, justify="left" if name in ("work", "unit", "reached") else "right")
    for row in rows:
        table.add_row(*row.cells())
    Console(width=None if sys.stdout.isatty() else 140).print(table)
