"""The evaluations of a run: before and after each stage, and over the steps where there are several."""

from typing import NamedTuple

from nanochat_pl.reporting.pictures import Picture, draw
from nanochat_pl.reporting.records import Scores, StageRecord
from nanochat_pl.reporting.tables import Cell, Table


class Moment(NamedTuple):
    """The scores of a suite's tasks at one moment of the run."""

    label: str
    scores: Scores


def tables_of_evaluations(stages: list[StageRecord]) -> list[Table]:
    """A table of each suite: a row a task, a column before the first stage and after each."""
    return [_table(suite, _moments(suite, stages)) for suite in _suites(stages)]


def draw_evaluations(stages: list[StageRecord]) -> list[Picture]:
    """A picture of each suite in each stage that was evaluated at three steps or more."""
    pictures = []
    for stage in stages:
        for suite, steps in stage.evaluations.items():
            series: dict[str, list[tuple[int, float]]] = {}
            for step, scores in steps.items():
                for task, score in scores.items():
                    if "accuracy" in score:
                        series.setdefault(task, []).append((step, 100 * score["accuracy"]))
            if len(steps) >= 3 and series:
                pictures.append(draw(f"{suite} in {stage.name}", "% right", series, f"{suite} {stage.name}"))
    return pictures


def _suites(stages: list[StageRecord]) -> list[str]:
    return list(dict.fromkeys(suite for stage in stages for suite in stage.evaluations))


def _moments(suite: str, stages: list[StageRecord]) -> list[Moment]:
    moments: list[Moment] = []
    for stage in stages:
        steps = stage.evaluations.get(suite, {})
        if not steps:
            continue
        first, last = next(iter(steps)), next(reversed(steps))
        if first == 0 and (not moments or stages[stages.index(stage) - 1].evaluations.get(suite) is None):
            moments.append(Moment(f"before {stage.name}", steps[0]))
        if last > 0:
            is_end = last == stage.summary.get("step")
            moments.append(Moment(f"after {stage.name}" if is_end else f"{stage.name} at step {last:,}", steps[last]))
    return moments


def _table(suite: str, moments: list[Moment]) -> Table:
    tasks = list(dict.fromkeys(task for moment in moments for task in moment.scores))
    rows = []
    for task in tasks:
        row, before = [Cell(task)], None
        for moment in moments:
            score = moment.scores.get(task)
            row.append(_cell(score, before))
            before = score or before
        rows.append(row)
    return Table(suite, ["task", *(moment.label for moment in moments)], rows, _NOTE)


_NOTE = "Per cent right, with the standard error; below it the difference from the column before."


def _cell(score: dict[str, float] | None, before: dict[str, float] | None) -> Cell:
    if not score or "accuracy" not in score:
        return Cell("–")
    percent, error = 100 * score["accuracy"], 100 * score.get("standard_error", 0.0)
    text = f"{percent:.1f} ± {error:.1f}" if error else f"{percent:.1f}"
    if not before or "accuracy" not in before:
        return Cell(text)
    change = percent - 100 * before["accuracy"]
    noise = 2 * (error**2 + (100 * before.get("standard_error", 0.0)) ** 2) ** 0.5
    tone = "" if abs(change) <= noise else "good" if change > 0 else "bad"
    return Cell(text, f"{change:+.1f}", tone)
