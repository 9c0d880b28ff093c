"""What a report says of a sweep: its jobs, loss against compute, the best learning rate, the spread over seeds."""

import shlex
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nanochat_pl.core.figures import duration, number
from nanochat_pl.core.sweep_folder import spread_over_seeds
from nanochat_pl.reporting.contents import ENDINGS
from nanochat_pl.reporting.fits import PowerLaw, Valley, envelope, fit_power_law, fit_valley
from nanochat_pl.reporting.pictures import Picture
from nanochat_pl.reporting.records import as_list
from nanochat_pl.reporting.sweep_pictures import draw_compute, draw_valleys
from nanochat_pl.reporting.sweep_records import JobRecord, SweepRecord
from nanochat_pl.reporting.tables import Cell, Table

METRICS = {"val/bpb": "validation, bits per byte", "val/loss": "validation loss", "train/loss": "training loss"}
"""The one that is compared is the first that the jobs have."""
RATES = ("lr", "lr_scale")
"""Last words of the options that are learning rates or factors of them."""
SPREAD = {"val_bpb": "val bpb", "train_loss": "training loss", "tokens_per_second": "tokens/s"}


@dataclass(frozen=True)
class Section:
    """One question and its answers."""

    title: str
    said: list[str]
    pictures: list[Picture] = field(default_factory=list)
    table: Table | None = None


@dataclass(frozen=True)
class Trouble:
    """Jobs that did not finish, and why."""

    names: list[str]
    status: str
    reason: str


@dataclass(frozen=True)
class SweepReport:
    """All of it."""

    name: str
    lead: str
    written: str
    troubles: list[Trouble]
    jobs: Table
    sections: list[Section]
    shared: list[str]
    commands: list[str]


def build_sweep_report(sweep: SweepRecord) -> SweepReport:
    """Say all that the records hold, stage by stage: the losses of different stages are of different texts."""
    jobs = sweep.jobs
    by_stage: dict[str, list[JobRecord]] = defaultdict(list)
    for job in jobs:
        by_stage[job.stage].append(job)
    sections = []
    for stage, members in by_stage.items():
        where = f" ({stage})" if len(by_stage) > 1 else ""
        metric = next((name for name in METRICS if any(name in job.record.metrics for job in members)), None)
        if metric:
            sections += [_compute(members, metric, where), *_rates(members, metric, where)]
    sections += _seeds(jobs)
    return SweepReport(
        name=sweep.name,
        lead=_lead(jobs),
        written=time.strftime("%Y-%m-%d %H:%M"),
        troubles=_troubles(jobs),
        jobs=_jobs(jobs),
        sections=sections,
        shared=sweep.shared,
        commands=_commands(jobs),
    )


def _lead(jobs: list[JobRecord]) -> str:
    finished = [job for job in jobs if job.status == "finished"]
    seconds = sum(job.record.number("wall_seconds") or 0 for job in jobs)
    flops = sum(job.flops or 0 for job in jobs)
    parts = [f"{len(finished)} of {len(jobs)} jobs finished"] if len(finished) < len(jobs) else [f"{len(jobs)} jobs"]
    parts += [f"{flops:.3g} FLOPs"] if flops else []
    return ", ".join([*parts, f"{duration(seconds)} of training"]) + "."


def _troubles(jobs: list[JobRecord]) -> list[Trouble]:
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for job in jobs:
        if job.status != "finished":
            names[job.status, job.error or ENDINGS.get(job.status, "")].append(job.name)
    return [Trouble(alike, *ending) for ending, alike in names.items()]


def _jobs(jobs: list[JobRecord]) -> Table:
    columns: list[tuple[str, str, Callable[[Any], str]]] = [
        ("val bpb", "val_bpb", lambda x: f"{x:.4f}"), ("training loss", "train_loss", lambda x: f"{x:.4f}"),
        ("tokens/s", "tokens_per_second", number), ("time", "wall_seconds", duration),
        ("parameters", "parameters", number), ("tokens", "tokens", number),
    ]  # fmt: skip
    rows = []
    for job in jobs:
        values = [(job.record.number(key), shown) for _, key, shown in columns]
        cells = [Cell("–" if value is None else shown(value)) for value, shown in values]
        flops = Cell("–" if job.flops is None else f"{job.flops:.3g}")
        status = Cell(job.status, tone="" if job.status == "finished" else "bad")
        rows.append([Cell(job.name), status, *cells, flops])
    head = ["job", "status", *(title for title, _, _ in columns), "FLOPs"]
    note = "FLOPs: forward and backward, of the tokens trained on. Training loss: of the last step, nats per token."
    return Table("", head, rows, note)


def _compute(jobs: list[JobRecord], metric: str, where: str) -> Section:
    curves = {job.name: job.curve(metric) for job in jobs}
    curves = {name: points for name, points in curves.items() if points}
    title = f"Loss against compute{where}"
    if not curves:
        return Section(title, ["The records of these jobs do not tell their compute."])
    best = envelope([point for points in curves.values() for point in points])
    law = fit_power_law(best)
    said = [law] if isinstance(law, str) else _law(law, best, METRICS[metric])
    return Section(title, said, [draw_compute(METRICS[metric], curves, best, law, where)])


def _law(law: PowerLaw, best: list[tuple[float, float]], metric: str) -> list[str]:
    low, high = law.exponent_range
    floors = f"{law.floor_range[0]:.3g} to {law.floor_range[1]:.3g}"
    said = [
        f"L(C) = {law.floor:.3g} + {law.scale:.3g} (C / {law.unit:.3g})^-{law.exponent:.3g}, fitted to the {len(best)} "
        f"points of the envelope ({metric}, C in FLOPs): what no cheaper moment of any job undercuts.",
        f"One standard error of the exponent: {low:.3g} to {high:.3g}; of the floor: {floors}. At ten times the "
        f"greatest compute it would be {law.at(10 * best[-1][0]):.3g}.",
    ]
    if not law.is_determined:
        said.append("The points do not determine the exponent: the range reaches the end of what was tried.")
    said.append(
        "Moments within a run count as they are, with a rate not yet decayed; jobs of different lengths make the law "
        "better."
    )
    return said


def _rates(jobs: list[JobRecord], metric: str, where: str) -> list[Section]:
    """A section for each learning rate that was swept."""
    sections = []
    for key in sorted({key for job in jobs for key in job.settings if key.rpartition(".")[2] in RATES}):
        groups: dict[str, list[JobRecord]] = defaultdict(list)
        for job in jobs:
            if isinstance(job.settings.get(key), int | float):
                others = (f"{name}={value}" for name, value in job.settings.items() if name not in (key, "seed"))
                groups[" ".join(others)].append(job)
        groups = {name: group for name, group in groups.items() if len({job.settings[key] for job in group}) > 1}
        if groups:
            sections.append(_valleys(key, groups, metric, where))
    return sections


def _valleys(key: str, groups: dict[str, list[JobRecord]], metric: str, where: str) -> Section:
    points, valleys, said = {}, {}, []
    for name, group in groups.items():
        values = [(float(job.settings[key]), job.result(metric)) for job in group]
        points[name] = sorted((rate, value) for rate, value in values if value is not None)
        valleys[name] = fit_valley(points[name])
        begin = f"{name}: " if name else ""
        said.append(begin + _bottom(key, valleys[name]))
        if lost := sorted(rate for rate, value in values if value is None):
            said.append(f"{begin}without a result: {key} = {', '.join(f'{rate:g}' for rate in lost)}.")
    picture = draw_valleys(key, METRICS[metric], points, valleys, where)
    return Section(f"Best {key}{where}", said, [picture] if picture else [])


def _bottom(key: str, valley: Valley | str) -> str:
    if isinstance(valley, str):
        return valley
    further = {"lowest": "smaller", "highest": "greater"}.get(valley.edge)
    lowest = f"the lowest loss was measured at {valley.lowest_tried:g}"
    if valley.best is None:
        return (
            f"the best {key} is not within what was tried: {lowest}, and the loss still falls at the {valley.edge} "
            f"rate. Try {further} ones."
        )
    text = f"the best {key} is {valley.best:.3g}"
    if valley.factor is not None:
        text += f" (one standard error: {valley.best / valley.factor:.3g} to {valley.best * valley.factor:.3g})"
    else:
        text += " (through three points: no error can be told)"
    at_edge = f", the {valley.edge} rate tried: {further} ones would show the bottom" if further else ""
    return f"{text}, with a loss of {valley.loss:.4f}; {lowest}{at_edge}."


def _seeds(jobs: list[JobRecord]) -> list[Section]:
    runs = [
        {"overrides": options, **{name: job.record.number(name) for name in SPREAD}}
        for job in jobs
        if job.status == "finished"
        and (options := job.options if _has_seed(job.options) else [f"{k}={v}" for k, v in job.settings.items()])
    ]
    rows = []
    for group in spread_over_seeds(runs):
        cells = [_spread_cell(group.get(name), 0 if name == "tokens_per_second" else 4) for name in SPREAD]
        rows.append([Cell(" ".join(group["overrides"]) or "all"), Cell(str(group["seeds"])), *cells])
    if not rows:
        return []
    table = Table("", ["the same but for the seed", "seeds", *SPREAD.values()], rows, "Mean ± standard deviation.")
    return [Section("Spread over seeds", [], table=table)]


def _has_seed(options: list[str]) -> bool:
    return any(option.lstrip("+").startswith("seed=") for option in options)


def _spread_cell(spread: dict[str, float] | None, digits: int) -> Cell:
    if spread is None:
        return Cell("–")
    mean, deviation, low, high = (f"{spread[k]:,.{digits}f}" for k in ("mean", "standard_deviation", "min", "max"))
    return Cell(f"{mean} ± {deviation}", f"{low} to {high}")


def _commands(jobs: list[JobRecord]) -> list[str]:
    given = (as_list(call.get("command")) for job in jobs for call in job.record.invocations[:1])
    return list(dict.fromkeys(shlex.join(["python", *map(str, command)]) for command in given if command))
