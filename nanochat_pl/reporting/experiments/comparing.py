"""Experiments beside each other: what they differ in, which is better, and whether that is more than chance."""

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.paths import runs_root
from nanochat_pl.reporting.experiments.experiment import Experiment, smaller_is_better

METRIC_OF = {"base": "val_bpb", "mid": "val_bpb", "sft": "val_bpb", "rl": "val/reward"}
"""Stage -> what its experiments are judged by."""
HELD_OUT = ("val", "train")
"""Metrics that begin so depend on the data."""
BEYOND_CHANCE = 2.0
"""Standard errors."""


@dataclass(frozen=True)
class Comparison:
    """Of two experiments.

    Attributes:
        differences: (option, the first's value, the other's).
        results: metric -> the first's and the other's value, None where it has none.
        metric: by which they are judged.
        better: the name of the better one; "" where neither is, or one has no such result.
        by: how much better, in units of the metric.
        standard_errors: the same in standard errors of the difference, from the spread over seeds; None: unknown.
        verdict: all of it in words.
    """

    first: str
    other: str
    differences: list[list[Any]]
    results: dict[str, list[float | None]]
    metric: str
    better: str = ""
    by: float = 0.0
    standard_errors: float | None = None
    verdict: str = ""
    cautions: list[str] = field(default_factory=list)


def differences(before: Experiment, after: Experiment) -> list[list[Any]]:
    """(option, value before, value after) of all settings in which they differ."""
    old, new = before.settings, after.settings
    differing = (key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key))
    return [[key, old.get(key), new.get(key)] for key in differing]


def parent_of(experiment: Experiment, earlier: Sequence[Experiment]) -> Experiment | None:
    """The nearest earlier one: of its stage and recipe, with the fewest different settings.

    Of several, a finished one rather than another, and then the latest.
    """
    alike = [other for other in earlier if (other.stage, other.recipe) == (experiment.stage, experiment.recipe)]

    def distance(other: Experiment) -> tuple[int, bool]:
        return len(differences(other, experiment)), other.status != "finished"

    return min(reversed(alike), key=distance, default=None)


def find_experiment(name: str, experiments: Sequence[Experiment]) -> Experiment:
    """The one of this name, as tiny/base or runs/tiny/base; of a run's name, its latest stage.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    names = (name.rstrip("/"), os.path.relpath(name, runs_root()))
    found = [one for one in experiments if one.name in names]
    found += [one for one in experiments if one.name in {f"{run}/{one.stage}" for run in names}]
    if found:
        return max(found, key=lambda one: one.began)
    there = [experiment.name for experiment in experiments]
    shown = f" Experiments: {', '.join(there[-8:])}." if there else " There are none; `python train.py` makes one."
    raise UserError(f"There is no experiment '{name}'{nearest(names[0], there)}{shown}")


def ranked(experiments: Sequence[Experiment], metric: str) -> list[Experiment]:
    """Those that are finished and have a result of the metric, the best first; of equals, the earlier.

    Raises:
        UserError: none has one; the message names the metrics that there are.
    """
    finished = [experiment for experiment in experiments if experiment.status == "finished"]
    having = [experiment for experiment in finished if metric in experiment.results]
    if not having:
        metrics = sorted({name for experiment in finished for name in experiment.results})
        there = f" Metrics: {', '.join(metrics)}." if metrics else " There is no finished experiment yet."
        raise UserError(f"No finished experiment has the result '{metric}'{nearest(metric, metrics)}{there}")
    sign = 1 if smaller_is_better(metric) else -1
    return sorted(having, key=lambda experiment: sign * experiment.results[metric])


def seeds_of(experiment: Experiment, experiments: Sequence[Experiment], metric: str) -> list[float]:
    """The results of the finished ones that differ from it in nothing but the seed: one of each seed, its own first."""
    results: dict[Any, float] = {}
    for one in (experiment, *(one for one in experiments if one.status == "finished")):
        if metric in one.results and are_alike(one, experiment, experiments):
            results.setdefault(one.settings.get("seed"), one.results[metric])
    return list(results.values())


def compare(first: Experiment, other: Experiment, experiments: Sequence[Experiment], metric: str) -> Comparison:
    """Which of two is better by a metric.

    Args:
        experiments: all that there are, among which other seeds of the two tell what is chance.
    """
    names = sorted(first.results.keys() | other.results.keys())
    results = {name: [first.results.get(name), other.results.get(name)] for name in names}
    base = Comparison(first.name, other.name, differences(first, other), results, metric)
    one, two = first.results.get(metric), other.results.get(metric)
    if one is None or two is None:
        lacking = [each.name for each, value in ((first, one), (other, two)) if value is None]
        verb = "has" if len(lacking) == 1 else "have"
        return replace(base, verdict=f"Neither can be said to be better: {' and '.join(lacking)} {verb} no {metric}.")
    cautions = _cautions(first, other, metric)
    if first.stage != other.stage and metric.startswith(HELD_OUT):
        said = (
            f"Neither can be said to be better: {first.stage} and {other.stage} have other data, so {metric} does not"
        )
        return replace(base, verdict=f"{said} compare. An evaluation's suite does: --metric SUITE.", cautions=cautions)
    seeds = [[one], [two]]
    if first.status == other.status == "finished":
        if are_alike(first, other, experiments):
            said = f"They have the same settings but for the seed: {metric} {one:.4f} and {two:.4f} differ by chance."
            return replace(base, verdict=said, cautions=cautions)
        seeds = [seeds_of(each, experiments, metric) for each in (first, other)]
    means, error = [statistics.mean(values) for values in seeds], _standard_error(seeds)
    gap = means[1] - means[0]
    if gap == 0:
        return replace(base, verdict=f"They are equal in {metric}: {one:.4f}.", cautions=cautions)
    better = other if (gap < 0) == smaller_is_better(metric) else first
    share = f" ({100 * abs(gap / means[0]):.1f}%)" if means[0] else ""
    said = f"{better.name} is better: {metric} {means[0]:.4f} and {means[1]:.4f}, by {abs(gap):.4f}{share}. "
    if not error:
        said += (
            "How much seeds differ is not known, so this may be chance: train each with other seeds "
            "(`-m seed=1,2,3` in its command) to tell."
        )
        return replace(base, better=better.name, by=abs(gap), verdict=said, cautions=cautions)
    counts = " and ".join(str(len(values)) for values in seeds)
    ratio = abs(gap) / error
    beyond = "more than chance" if ratio > BEYOND_CHANCE else "within what seeds alone make"
    said += f"Means over {counts} seeds; the difference is {ratio:.1f} standard errors, {beyond}."
    return replace(base, better=better.name, by=abs(gap), standard_errors=ratio, verdict=said, cautions=cautions)


def are_alike(one: Experiment, other: Experiment, experiments: Sequence[Experiment]) -> bool:
    """Whether they differ in nothing but the seed; so may the experiments that made the models they began with."""
    if one.stage != other.stage or {key for key, *_ in differences(one, other)} - {"seed", "stage.init_from"}:
        return False
    if one.began_with == other.began_with:
        return True
    models = (one.began_with, other.began_with)
    made = [[each for each in experiments if model.endswith(f"/{each.name}/model")] for model in models]
    return all(made) and are_alike(made[0][0], made[1][0], experiments)


def _standard_error(seeds: Sequence[Sequence[float]]) -> float | None:
    """Of the difference of two means, with the spread that both have in common; None where no seed was repeated."""
    spare = sum(len(values) - 1 for values in seeds)
    if not spare:
        return None
    squares = sum(statistics.variance(values) * (len(values) - 1) for values in seeds if len(values) > 1)
    return math.sqrt(squares / spare * sum(1 / len(values) for values in seeds))


def _cautions(first: Experiment, other: Experiment, metric: str) -> list[str]:
    cautions = [
        f"{each.name} is {each.status}, at step {each.step:,} of {each.steps or 0:,}."
        for each in (first, other)
        if each.status != "finished"
    ]
    data = [key for key, *_ in differences(first, other) if key.startswith(("data.", "tasks."))]
    if first.stage == other.stage and data and metric.startswith(HELD_OUT):
        cautions.append(f"Their data differ ({', '.join(data[:3])}): {metric} may not compare.")
    return cautions
