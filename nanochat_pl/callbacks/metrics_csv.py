"""metrics.csv: a Lightning logger that appends, and on resume cuts what lies beyond the checkpoint."""

import contextlib
import csv
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from nanochat_pl.callbacks.crew import disk_full
from nanochat_pl.core.errors import MachineError
from nanochat_pl.core.findings import Finding, announce
from nanochat_pl.core.paths import write_text
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.spec import Spec


@dataclass(frozen=True)
class MetricsCSVSpec(Spec):
    """`logger=csv`."""

    def build(self, run: RunFolder, resumed_step: int | None) -> "MetricsCSV":
        return MetricsCSV(run.metrics, resumed_step)


class RunFolderLogger(Logger):
    """One of the run folder, whose config.yaml and resolved.json hold the hyperparameters."""

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None: ...


class MetricsCSV(RunFolderLogger):
    """One row a call, one column a metric; a new metric rewrites the file with one column more.

    Lightning's CSVLogger deletes its file on resume, so this is our own. Rows that the disk has no room for are kept,
    and written when it has.

    Args:
        resumed_step: rows of later steps are dropped; None starts a new file.
    """

    def __init__(self, path: Path, resumed_step: int | None = None):
        super().__init__()
        self._path = path
        self._columns: list[str] = ["step"]
        self._unwritten: list[dict[str, Any]] = []
        self._failed_step: int | None = None
        rows = []
        if resumed_step is not None and path.exists():
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                reader = csv.DictReader(file)
                self._columns = list(reader.fieldnames or self._columns)
                # A row cut short by a kill has no valid step or lies beyond the checkpoint.
                rows = [row for row in reader if (row.get("step") or "").isdigit() and int(row["step"]) <= resumed_step]
        self._rewrite(rows, self._columns)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        metrics = {name: value for name, value in metrics.items() if name != "epoch"}
        if not metrics:
            return
        self._unwritten.append({"step": step} | metrics)
        self._write()

    @rank_zero_only
    def save(self) -> None:
        """Wait until every row is on the disk."""
        self._write()
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            os.fsync(file.fileno())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._write()

    def _write(self) -> None:
        if not self._unwritten:
            return
        rows, step = len(self._unwritten), self._unwritten[-1]["step"]
        try:
            self._add_columns()
            self._append()
        except (OSError, MachineError) as error:
            if self._failed_step is None:
                self._failed_step = step
                announce(RunFolder(self._path.parent), disk_full(self._path.name, step, error))
            return
        if self._failed_step is not None:
            told = Finding(
                "disk_full",
                step,
                f"{self._path.name} is complete again: the rows since step {self._failed_step} were kept.",
                "",
                severity="info",
                since_step=self._failed_step,
                evidence={"rows": rows},
            )
            self._failed_step = None
            announce(RunFolder(self._path.parent), told)

    def _add_columns(self) -> None:
        names = dict.fromkeys(name for row in self._unwritten for name in row)
        new = [name for name in names if name not in self._columns]
        if new:
            with self._path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self._rewrite(rows, self._columns + new)

    def _append(self) -> None:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns, restval="").writerows(self._unwritten)
        whole = self._path.stat().st_size
        try:
            with self._path.open("ab") as file:
                file.write(text.getvalue().encode())
        except OSError:
            os.truncate(self._path, whole)  # a part of a row may have found room
            raise
        self._unwritten.clear()

    @rank_zero_only
    def _rewrite(self, rows: list[dict[str, str]], columns: list[str]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self._path, text.getvalue())
        self._columns = columns
