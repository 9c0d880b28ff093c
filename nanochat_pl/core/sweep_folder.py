"""The folder of a sweep: sweep.json, into which each job writes how it went, wherever it runs."""

import json
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from nanochat_pl.core.paths import write_text
from nanochat_pl.core.run_folder import RunFolder, as_object, read_object

METRICS = ("val_bpb", "train_loss", "tokens_per_second", "wall_seconds")

Job = dict[str, Any]
"""job (its number), overrides, folder, status, exit_code, error; and what summary.json says of the run."""


class SweepFolder:
    """The one place that knows sweep.json.

    Attributes:
        file: sweep.json in it: the overrides that all jobs were given, the jobs, and the spread over seeds.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.file = self.path / "sweep.json"

    def begin(self, overrides: list[str]) -> None:
        """Start with no jobs.

        Args:
            overrides: of the command, in which `seed=1,2` says what is swept.
        """
        self._write({"overrides": overrides, "runs": [], "spread": []})

    def record(self, job: int, **facts: Any) -> None:
        """Set what is known of a job. Jobs that run at the same time wait for each other here."""
        from filelock import FileLock

        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / ".sweep.lock"):
            jobs = {entry["job"]: entry for entry in self.jobs()}
            jobs[job] = {"job": job} | facts
            entries = [jobs[number] for number in sorted(jobs)]
            spread = spread_over_seeds([entry for entry in entries if entry.get("status") == "finished"])
            self._write({"overrides": self.overrides(), "runs": entries, "spread": spread})

    def jobs(self) -> list[Job]:
        """What is known of the jobs, in their order; none where sweep.json is missing or damaged."""
        entries = read_object(self.file).get("runs")
        return [entry for entry in map(as_object, entries if isinstance(entries, list) else []) if _is_job(entry)]

    def overrides(self) -> list[str]:
        """Of the command."""
        given = read_object(self.file).get("overrides")
        return list(map(str, given)) if isinstance(given, list) else []

    def _write(self, content: dict[str, Any]) -> None:
        write_text(self.file, json.dumps(content, indent=2) + "\n")


def job_of(run: RunFolder, overrides: list[str], status: str, exit_code: int | None = None, error: str = "") -> Job:
    """The facts of a job: its own, and those of its run as far as they are of this training."""
    summary = run.read_summary()
    if status != "finished" and summary.get("status") == "finished":
        summary = {}  # of another training that the folder holds
    own = {"overrides": sorted(overrides), "folder": str(run.path)}
    return own | summary | {"status": status, "exit_code": exit_code} | ({"error": error} if error else {})


def spread_over_seeds(runs: list[Job]) -> list[dict[str, Any]]:
    """Mean, standard deviation, least and greatest of each metric over the runs that differ in their seed only."""
    groups: dict[tuple[str, ...], list[Job]] = defaultdict(list)
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


def first_sentence(text: str) -> str:
    """Of a paragraph."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", " ".join(text.split()), maxsplit=1)[0]


def _is_job(entry: dict[str, Any]) -> bool:
    overrides = entry.get("overrides")
    return isinstance(entry.get("job"), int) and isinstance(entry.get("folder"), str) and isinstance(overrides, list)
