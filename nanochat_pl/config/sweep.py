"""What a sweep ends with: a table of its runs, and the spread over seeds."""

import atexit
import json
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from nanochat_pl.core.paths import write_text
from nanochat_pl.core.run_folder import RunFolder

METRICS = ("val_bpb", "train_loss", "tokens_per_second", "wall_seconds")


class SweepSummary(Callback):
    """Prints the table and writes sweep.json into the sweep's folder."""

    def __init__(self) -> None:
        self._runs: list[dict[str, Any]] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if job_return.status == JobStatus.COMPLETED and job_return._return_value is not None:
            run = RunFolder(job_return._return_value)
            overrides = sorted(job_return.overrides or [])
            self._runs.append({"overrides": overrides, "folder": str(run.path)} | run.read_summary())
            # After every job, so that a sweep that fails later has what it has made.
            spread = spread_over_seeds(self._runs)
            text = json.dumps({"runs": self._runs, "spread": spread}, indent=2)
            write_text(Path(config.hydra.sweep.dir) / "sweep.json", text)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.register(self._print)  # at the program's end and not at the sweep's: a job that fails ends both

    def _print(self) -> None:
        if self._runs:
            _print(self._runs, spread_over_seeds(self._runs))


def spread_over_seeds(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, standard deviation, least and greatest of each metric over the runs that differ in their seed only."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[tuple(override for override in run["overrides"] if not re.match(r"\+*seed=", override))].append(run)
    spread = []
    for overrides, members in groups.items():
        row: dict[str, Any] = {"overrides": list(overrides), "seeds": len(members)}
        for metric in METRICS:
            values = [run[metric] for run in members if run.get(metric) is not None]
            if len(values) > 1:
                row[metric] = {
                    "mean": statistics.mean(values),
                    "standard_deviation": statistics.stdev(values),
                    "min": min(values),
                    "max": max(values),
                }
        if len(members) > 1:
            spread.append(row)
    return spread


def _print(runs: list[dict[str, Any]], spread: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    shared = set.intersection(*(set(run["overrides"]) for run in runs)) if len(runs) > 1 else set()
    table = Table("run", "val bpb", "train loss", "tok/s", "seconds", title="Sweep", caption=" ".join(sorted(shared)))
    numbers = ("{:.4f}", "{:.4f}", "{:,.0f}", "{:.0f}")
    for run in runs:
        cells = [form.format(run[name]) if run.get(name) is not None else "-" for form, name in zip(numbers, METRICS)]
        table.add_row(_differing(run["overrides"], shared), *cells)
    for row in spread:
        cells = [
            f"{form.format(row[name]['mean'])} ± {form.format(row[name]['standard_deviation'])}" if name in row else "-"
            for form, name in zip(numbers, METRICS)
        ]
        name = f"{_differing(row['overrides'], shared)} mean of {row['seeds']} seeds ± standard deviation"
        table.add_row(f"[bold]{name.strip()}", *cells)
    Console().print(table)


def _differing(overrides: list[str], shared: set[str]) -> str:
    return " ".join(override for override in overrides if override not in shared)
