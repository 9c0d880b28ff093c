"""The evaluations of a run: before and after each stage, and over the steps where there are several."""

from dataclasses import replace
from typing import NamedTuple

from nanochat_pl.reporting.pictures import Picture, draw
from nanochat_pl.reporting.records import Figures, StageRecord, SuiteResult
from nanochat_pl.reporting.tables import Cell, Table

_CURVE_STEPS = 3
"""Evaluations of a stage that are worth a picture."""
_ON_ONE_PICTURE = 6

BITS_PER_BYTE = "bits per byte"
"""The metric whose values do not compare: each stage has held-out data of its own."""


class Moment(NamedTuple):
    """What a suite measured at one moment of the run."""

    label: str
    result: SuiteResult


class Row(NamedTuple):
    """A figure at each moment, None where it was not measured.

    Attributes:
        is_share: an accuracy, to be told in per cent.
        compares: whether a change means anything.
    """

    name: str
    figures: list[Figures | None]
    key: str
    is_share: bool
    compares: bool = True


def tables_of_evaluations(stages: list[StageRecord]) -> list[Table]:
    """A table of each suite, with columns for before the first stage and after each; small ones are put together."""
    tables: list[Table] = []
    single: dict[tuple[str, ...], Table] = {}
    for suite in dict.fromkeys(suite for stage in stages for suite in stage.evaluations):
        table = _table(suite, _moments(suite, stages))
        head = tuple(table.head)
        if len(table.rows) > 1:
            tables.append(table)
        elif head in single:
            single[head] = replace(single[head], title="others", rows=[*single[head].rows, *table.rows])
        else:
            single[head] = table
    return [*tables, *single.values()]


def draw_evaluations(stages: list[StageRecord]) -> list[Picture]:
    """A picture of the accuracies of each suite in each stage that it was measured in several times."""
    pictures = []
    for stage in stages:
        for suite, steps in stage.evaluations.items():
            series: dict[str, list[tuple[int, float]]] = {}
            for step, result in steps.items():
                for task, figures in result.tasks.items():
                    if "accuracy" in figures:
                        series.setdefault(task, []).append((step, 100 * figures["accuracy"]))
            if len(series) > _ON_ONE_PICTURE:
                own = [(step, r.own["value"]) for step, r in steps.items() if "value" in r.own]
                series = {next(iter(steps.values())).metric: own} if own else {}
            if len(steps) >= _CURVE_STEPS and series:
                unit = "accuracy, %" if len(series) > 1 or suite in series else next(iter(series))
                pictures.append(draw(f"{suite} in {stage.name}", unit, series, f"{suite} {stage.name}"))
    return pictures


def _moments(suite: str, stages: list[StageRecord]) -> list[Moment]:
    """After each stage; before one, too, where nothing was measured after the one before it."""
    moments: list[Moment] = []
    measured_before = False
    for stage in stages:
        steps = stage.evaluations.get(suite, {})
        if 0 in steps and not measured_before:
            moments.append(Moment(f"before {stage.name}", steps[0]))
        last = max(steps, default=0)
        if last > 0:
            is_end = last == stage.summary.get("step")
            moments.append(Moment(f"after {stage.name}" if is_end else f"{stage.name} at step {last:,}", steps[last]))
        measured_before = last > 0
    return moments


def _table(suite: str, moments: list[Moment]) -> Table:
    results = [moment.result for moment in moments]
    tasks = list(dict.fromkeys(task for result in results for task in result.tasks))
    rows = [Row(task, [result.tasks.get(task) for result in results], "accuracy", is_share=True) for task in tasks]
    if len(tasks) != 1:
        metric = results[-1].metric
        own: list[Figures | None] = [result.own for result in results]
        rows.append(Row(metric, own, "value", "accuracy" in metric, not metric.startswith(BITS_PER_BYTE)))
    return Table(suite, ["task", *(label for label, _ in moments)], [_cells(row) for row in rows])


def _cells(row: Row) -> list[Cell]:
    """The row; where the figures are of different numbers of questions, each says its own, and no change is told."""
    counts = [f"{figures['count']:,.0f} questions" if figures and "count" in figures else "" for figures in row.figures]
    is_even = len({count for count in counts if count}) == 1
    cells, before = [Cell(row.name, next(filter(None, counts)) if is_even else "")], None
    for figures, count in zip(row.figures, counts):
        if figures is None or row.key not in figures:
            cells.append(Cell("–"))
            continue
        compared = before if before and before.get("count") == figures.get("count") else None
        cells.append(_cell(row, figures, compared, "" if is_even else count))
        before = figures if row.compares else None
    return cells


def _cell(row: Row, figures: Figures, before: Figures | None, count: str) -> Cell:
    scale, digits = (100, 1) if row.is_share else (1, 4)
    value, error = scale * figures[row.key], scale * figures.get("standard_error", 0.0)
    text = f"{value:.{digits}f} ± {error:.{digits}f}"
    if before is None:
        return Cell(text, count)
    change = value - scale * before[row.key]
    noise = 2 * (error**2 + (scale * before.get("standard_error", 0.0)) ** 2) ** 0.5
    note = ", ".join(filter(None, (f"{change:+.{digits}f}", count)))
    return Cell(text, note, "" if abs(change) <= noise else "good" if change > 0 else "bad")
