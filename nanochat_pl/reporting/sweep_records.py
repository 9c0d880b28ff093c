"""What a sweep has left behind: its jobs, what they differ in, and their losses against compute."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.flat import flat
from nanochat_pl.core.paths import runs_root
from nanochat_pl.core.run_folder import RunFolder, as_object
from nanochat_pl.core.sweep_folder import SweepFolder, first_sentence
from nanochat_pl.reporting.fits import Point
from nanochat_pl.reporting.records import StageRecord, as_number, load_stage, stages_of

WARM_UP = 0.1
"""The share of a run whose losses say more of its warm-up than of its size."""
NOT_COMPARED = ("run.", "hw.", "trainer.", "callbacks.", "logger.", "recipe_name")
"""Sections that don't change what a stage learns from what."""


@dataclass(frozen=True)
class JobRecord:
    """One training.

    Attributes:
        name: what sets it apart from the others.
        options: the same, one by one.
        settings: option -> value in its configuration, of those in which the jobs of its stage differ.
        status: as `StageRecord.status`, or skipped.
        error: the first sentence of why it did not finish.
        flops_per_token: of training; None where its records do not tell.
    """

    name: str
    options: list[str]
    settings: dict[str, Any]
    status: str
    error: str
    record: StageRecord
    flops_per_token: int | None

    @property
    def stage(self) -> str:
        return self.record.name

    @property
    def flops(self) -> float | None:
        """Spent until its last step."""
        tokens = self.record.number("tokens")
        return None if self.flops_per_token is None or tokens is None else self.flops_per_token * tokens

    def result(self, metric: str) -> float | None:
        """The last value of a metric of metrics.csv, where the job is finished."""
        values = self.record.metrics.get(metric)
        return as_number(values[-1][1]) if values and self.status == "finished" else None

    def curve(self, metric: str) -> list[Point]:
        """(FLOPs, value) of a metric after the warm-up."""
        tokens = as_number(self.record.resolved.get("total_batch_tokens"))
        steps = as_number(self.record.resolved.get("steps"))
        if self.record.number("tokens") is None or not (tokens and steps and self.flops_per_token):
            return []
        per_step = self.flops_per_token * tokens
        points = self.record.metrics.get(metric, [])
        return [(step * per_step, y) for step, y in points if step > WARM_UP * steps and as_number(y) and y > 0]


@dataclass(frozen=True)
class SweepRecord:
    """The jobs of a sweep, or all stages of all runs in a folder.

    Attributes:
        shared: the overrides that all jobs have.
    """

    name: str
    path: Path
    jobs: list[JobRecord]
    shared: list[str]


def load_sweep(where: Path | str) -> SweepRecord:
    """The records of a sweep.

    Args:
        where: a folder with sweep.json, by its path or its name under the runs root's folder `sweeps`; or a folder of
            runs.

    Raises:
        UserError: there is nothing that could be compared.
    """
    places = [Path(where).expanduser(), runs_root() / "sweeps" / where]
    path = next((place for place in places if place.is_dir()), None)
    if path is None:
        raise UserError(f"There is no folder {where}. Give a sweep's folder or a folder of runs.{_sweeps_here()}")
    sweep = SweepFolder(path)
    jobs = _jobs_of_sweep(sweep) if sweep.file.exists() else _jobs_of_runs(path)
    if len(jobs) < 2:
        few = "only one job" if jobs else "no jobs"
        named = f": python -m nanochat_pl report {jobs[0].record.folder.path} tells of it alone" if jobs else ""
        raise UserError(f"{path} holds {few}, and this report compares several{named}.{_sweeps_here()}")
    if not any(job.record.metrics for job in jobs):
        counted = ", ".join(f"{count} {status}" for status, count in Counter(job.status for job in jobs).items())
        raise UserError(
            f"None of the {len(jobs)} jobs of {path} has metrics yet: {counted}. There is "
            "nothing to compare; run the same command again, which goes on with those that are not finished."
        )
    shared = set.intersection(*(set(job.options) for job in jobs))
    return SweepRecord(path.resolve().name, path, [_named(job, shared) for job in _compared(jobs)], sorted(shared))


def _jobs_of_sweep(sweep: SweepFolder) -> list[JobRecord]:
    try:
        whole = isinstance(json.loads(sweep.file.read_text(encoding="utf-8"))["runs"], list)
    except (OSError, ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise UserError(
            f"{sweep.file} is damaged. The runs themselves may be whole: `report --sweep {runs_root()}` compares all "
            "that are there."
        )
    jobs = []
    for entry in sweep.jobs():
        folder = Path(entry["folder"])
        beside = sweep.path.parents[1] / folder.parent.name / folder.name  # where the runs were moved together
        record = load_stage(RunFolder(beside if beside.is_dir() else folder))
        if record.status == "finished" != entry.get("status"):  # the folder holds another training
            record = replace(record, summary={}, metrics={}, config={})
        status, error = str(entry.get("status", record.status)), first_sentence(str(entry.get("error", "")))
        jobs.append(_job("", [str(override) for override in entry["overrides"]], record, status, error))
    return jobs


def _jobs_of_runs(path: Path) -> list[JobRecord]:
    jobs = []
    for run in sorted(place for place in path.iterdir() if place.is_dir()):
        for stage in stages_of(run):
            record = load_stage(RunFolder(run / stage))
            jobs.append(_job(run.name, [f"stage={stage}"], record, record.status, ""))
    if not jobs:
        raise UserError(f"{path} has neither a sweep.json nor runs in it.{_sweeps_here()}")
    return jobs


def _job(name: str, options: list[str], record: StageRecord, status: str, error: str) -> JobRecord:
    return JobRecord(name, options, _settings(record.config), status, error, record, _flops_per_token(record.resolved))


def _compared(jobs: list[JobRecord]) -> list[JobRecord]:
    """With only those settings in which the jobs of a stage differ, where the job has begun at all."""
    compared = []
    for job in jobs:
        others = [other.settings for other in jobs if other.stage == job.stage and other.settings]
        kept = {key: value for key, value in job.settings.items() if any(o.get(key) != value for o in others)}
        compared.append(replace(job, settings=kept))
    return compared


def _named(job: JobRecord, shared: set[str]) -> JobRecord:
    own = [option for option in job.options if option not in shared]
    if job.name:  # a run of a folder: its own name says what it is
        return replace(job, options=own, name=" ".join([job.name, *own]))
    return replace(job, options=own, name=" ".join(own))


def _flops_per_token(resolved: dict[str, Any]) -> int | None:
    from nanochat_pl.models.contract import build_config
    from nanochat_pl.models.cost import ModelCost

    try:
        model = build_config(resolved.get("architecture", "nanochat"), as_object(resolved.get("model")))
        return ModelCost(model).training_flops_per_token
    except (UserError, TypeError, ValueError):
        return None


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    options = flat(config).items() if config else ()
    return {key: value for key, value in options if not key.startswith(NOT_COMPARED) and not key.endswith("_target_")}


def _sweeps_here() -> str:
    root = runs_root() / "sweeps"
    names = sorted((file.parent.name for file in root.glob("*/sweep.json")), reverse=True)
    return f" Sweeps in {root}: {', '.join(names[:8])}." if names else ""
