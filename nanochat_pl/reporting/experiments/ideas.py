"""Things to try: what follows from the experiments that there are."""

from collections.abc import Sequence
from typing import NamedTuple

from nanochat_pl.core.errors import UserError
from nanochat_pl.reporting.experiments.comparing import METRIC_OF, differences, ranked, seeds_of
from nanochat_pl.reporting.experiments.experiment import Experiment
from nanochat_pl.reporting.experiments.words import command_to_go_on, command_with, standing

LATEST = 3
"""Of the experiments that did not end well."""
FACTOR = 2.0
"""From one learning rate to the next."""


class Idea(NamedTuple):
    """One thing to try, and the command."""

    text: str
    command: str


def ideas_from(experiments: Sequence[Experiment]) -> list[Idea]:
    """End what was begun, find out whether the best is more than chance, and look beyond what was tried."""
    ideas = []
    unfinished = [one for one in experiments if one.status in ("killed", "interrupted", "failed")]
    for one in unfinished[: -LATEST - 1 : -1]:
        if one.command and one.steps and one.step < one.steps and ".before-" not in one.name:
            ideas.append(Idea(f"Finish {one.name}: {standing(one)}.", command_to_go_on(one)))
    for one in [one for one in experiments if one.status == "diverged"][: -LATEST - 1 : -1]:
        if one.lr_scale:
            lower = f"horizon.lr_scale={one.lr_scale / FACTOR:.4g}"
            ideas.append(Idea(f"{one.name} diverged: half its learning rates.", command_with(one, lower)))
    for stage, metric in METRIC_OF.items():
        ideas += _about_the_best([one for one in experiments if one.stage == stage], metric)
    return ideas


def _about_the_best(experiments: list[Experiment], metric: str) -> list[Idea]:
    try:
        best = ranked(experiments, metric)[0]
    except UserError:
        return []
    ideas = []
    seed = best.settings.get("seed")
    if len(seeds_of(best, experiments, metric)) < 2 and isinstance(seed, int):
        seeds = f"seed={seed + 1},{seed + 2}"
        text = f"Repeat the best, {best.name}, with other seeds: how much of a difference is chance is not known."
        ideas.append(Idea(text, command_with(best, seeds, sweep=True)))
    ideas += _rates(best, experiments)
    depth = best.settings.get("model.depth")
    depths = [one.settings.get("model.depth") for one in experiments if one.recipe == best.recipe]
    if best.stage == "base" and isinstance(depth, int) and max(filter(None, depths)) == depth:
        ideas.append(Idea(f"A deeper model than {best.name}.", command_with(best, f"model.depth={depth + 2}")))
    return ideas


def _rates(best: Experiment, experiments: list[Experiment]) -> list[Idea]:
    """On the sides of the best rate on which none was tried."""
    if not best.lr_scale:
        return []
    apart = {"horizon.lr_scale", "seed"}
    alike = [one for one in experiments if {key for key, *_ in differences(best, one)} <= apart]
    tried = [one.lr_scale for one in alike if one.lr_scale]
    rates = [best.lr_scale / FACTOR] if min(tried) == best.lr_scale else []
    rates += [best.lr_scale * FACTOR] if max(tried) == best.lr_scale else []
    if not rates:
        return []
    override = f"horizon.lr_scale={','.join(f'{rate:.4g}' for rate in rates)}"
    side = "Other" if len(rates) > 1 else "Lower" if rates[0] < best.lr_scale else "Higher"
    text = f"{side} learning rates than those of {best.name}, {best.lr_scale:g} times the recipe's."
    return [Idea(text, command_with(best, override, sweep=len(rates) > 1))]
