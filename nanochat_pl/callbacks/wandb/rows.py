"""What is new in a run folder's records since the last look."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_pl.core.run_folder import RunFolder, as_object, rows_of_metrics


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Row:
    """What is known of an optimizer step: figures and tables by their names."""

    step: int
    values: dict[str, float | Table]

    @property
    def has_tables(self) -> bool:
        return any(isinstance(value, Table) for value in self.values.values())


class NewRows:
    """Reads metrics.csv as it grows, and samples.txt and evaluations.json when they have changed.

    A step's rows in metrics.csv come as one where they are written soon after each other. Tables hold all there is up
    to their step.
    """

    def __init__(self, run: RunFolder):
        self._run = run
        self._metrics = MetricsTail(run.metrics)
        self._held: dict[int, dict[str, float | Table]] = {}
        self._samples, self._evaluations = Changes(run.samples), Changes(run.evaluations)

    def read(self, all_of_it: bool = False) -> list[Row]:
        """In the order of steps.

        Args:
            all_of_it: also what may be incomplete, since it was written a moment ago.
        """
        new = self._metrics.read()
        for step, values in new:
            self._held.setdefault(step, {}).update(values)
        newest = new[-1][0] if new and not all_of_it else None
        rows = [Row(step, values) for step, values in self._held.items() if step != newest]
        self._held = {step: values for step, values in self._held.items() if step == newest}
        if self._samples.settled(all_of_it):
            rows += _samples(self._run)
        if self._evaluations.settled(all_of_it):
            rows += _evaluations(self._run)
        return sorted(rows, key=lambda row: row.step)


class MetricsTail:
    """The rows of metrics.csv that are new since the last look; all of them where a column was added."""

    def __init__(self, path: Path):
        self._path = path
        self._header = b""
        self._at = 0

    def read(self) -> list[tuple[int, dict[str, float]]]:
        """(step, metrics) of each new row that is complete."""
        try:
            with self._path.open("rb") as file:
                header = file.readline()
                if header != self._header:  # with a new column, the writer replaces the file
                    self._header, self._at = header, len(header)
                file.seek(self._at)
                text = file.read()
        except OSError:
            return []
        text = text[: text.rfind(b"\n") + 1]
        self._at += len(text)
        return list(rows_of_metrics((self._header + text).decode(errors="replace").splitlines()))


class Changes:
    """Whether a file has changed, and nobody writes to it at the moment."""

    def __init__(self, path: Path):
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._told: tuple[int, int] | None = None

    def settled(self, at_once: bool = False) -> bool:
        """Whether it is as at the last look, and changed since this was last true."""
        try:
            status = self._path.stat()
        except OSError:
            return False
        now = (status.st_mtime_ns, status.st_size)
        is_settled = now != self._told and (now == self._seen or at_once)
        self._seen = now
        if is_settled:
            self._told = now
        return is_settled


def _samples(run: RunFolder) -> list[Row]:
    """All samples in one table, at the last step that has some."""
    samples = run.read_samples()
    if not samples:
        return []
    return [Row(samples[-1][0], {"samples": Table(("step", "sample"), samples)})]


def _evaluations(run: RunFolder) -> list[Row]:
    """A table of each suite: every task of every evaluation, at the last step that has one."""
    columns = ("step", "task", "accuracy", "standard_error", "count")
    rows = []
    for suite, results in run.read_evaluations().items():
        steps = sorted(results, key=int)
        tasks = [(int(step), as_object(task)) for step in steps for task in results[step].get("tasks") or ()]
        lines = [(step, task.get("label"), *(task.get(name) for name in columns[2:])) for step, task in tasks]
        if steps:
            rows.append(Row(int(steps[-1]), {f"evaluations/{suite}": Table(columns, lines)}))
    return rows
