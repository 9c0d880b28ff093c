"""metrics.csv: a Lightning logger that appends, and on resume cuts what lies beyond the checkpoint."""

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from nanochat_pl.core.paths import write_text
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.spec import Spec


@dataclass(frozen=True)
class MetricsCSVSpec(Spec):
    """`logger=csv`."""

    def build(self, run: RunFolder, resumed_step: int | None) -> "MetricsCSV":
        return MetricsCSV(run.metrics, resumed_step)


class MetricsCSV(Logger):
    """One row a call, one column a metric; a new metric rewrites the file with one column more.

    Lightning's CSVLogger deletes its file on resume, so this is our own.

    Args:
        path: the file.
        resumed_step: rows of later steps are dropped; None starts a new file.
    """

    def __init__(self, path: Path, resumed_step: int | None = None):
        super().__init__()
        self._path = path
        self._columns: list[str] = ["step"]
        rows = []
        if resumed_step is not None and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self._columns = list(reader.fieldnames or self._columns)
                # A row cut short by a kill has no valid step or lies beyond the checkpoint.
                rows = [row for row in reader if (row["step"] or "").isdigit() and int(row["step"]) <= resumed_step]
        self._rewrite(rows)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> "MetricsCSV":
        return self

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The run folder's config.yaml and resolved.json hold them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        metrics = {name: value for name, value in metrics.items() if name != "epoch"}
        if not metrics:
            return
        new = [name for name in metrics if name not in self._columns]
        if new:
            with self._path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self._columns += new
            self._rewrite(rows)
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns, restval="").writerow({"step": step} | dict(metrics))

    @rank_zero_only
    def save(self) -> None:
        """Wait until every row is on the disk."""
        with self._path.open("a", encoding="utf-8") as file:
            os.fsync(file.fileno())

    @rank_zero_only
    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self._path, text.getvalue())
