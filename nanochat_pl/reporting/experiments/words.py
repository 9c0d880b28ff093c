"""What is said of an experiment in a few words, in the file and on the command line."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat_pl.core.figures import duration, number, size
from nanochat_pl.reporting.experiments.experiment import Experiment

NOT_TRAINED = ("run", "callbacks", "logger", "trainer", "hydra")
"""Sections whose options don't change what is trained."""
NAMES = {
    "val_bpb": "Validation bits per byte", "val_loss": "Validation loss", "train_loss": "Final loss",
    "tokens": "Tokens", "parameters": "Parameters", "tokens_per_second": "Tokens per second",
    "wall_seconds": "Training time", "peak_memory_bytes": "Peak memory", "world_size": "Processes",
}  # fmt: skip


def shown(metric: str, value: float | None) -> str:
    """A result with its unit."""
    if value is None:
        return "-"
    if metric in ("tokens", "parameters"):
        return number(value)
    if metric in ("tokens_per_second", "world_size"):
        return f"{value:,.0f}"
    if metric == "wall_seconds":
        return duration(value)
    return size(value) if metric == "peak_memory_bytes" else f"{value:.4f}"


def suites(experiment: Experiment) -> str:
    """The results of its suites: "tiny 0.7125, core 0.2210"."""
    return ", ".join(
        f"{suite} {experiment.results[suite]:.4f}" for suite in experiment.evaluations if suite in experiment.results
    )


def given(experiment: Experiment) -> list[str]:
    """The overrides of its command, for this run alone; of an option given twice, the last."""
    is_sweep = "-m" in experiment.command or "--multirun" in experiment.command
    overrides = experiment.overrides or ([] if is_sweep else experiment.command[1:])
    return list({override.partition("=")[0]: override for override in overrides}.values())  # a later one wins


def chosen(experiment: Experiment) -> list[str]:
    """The overrides that change what is trained."""
    sections = [re.split(r"[.=@]", override.lstrip("+~"))[0] for override in given(experiment)]
    return [override for override, section in zip(given(experiment), sections) if section not in NOT_TRAINED]


def shared(experiments: Sequence[Experiment]) -> list[str]:
    """What was chosen for all of them, where there are several."""
    if len(experiments) < 2:
        return []
    of_all = set.intersection(*(set(chosen(experiment)) for experiment in experiments))
    return [override for override in chosen(experiments[0]) if override in of_all]


def short_config(experiment: Experiment, without: Sequence[str] = ()) -> str:
    """The recipe and what was chosen beside it."""
    own = [override for override in chosen(experiment) if override not in without]
    return ", ".join([experiment.recipe or "?", *(override for override in own if not override.startswith("recipe="))])


def standing(experiment: Experiment) -> str:
    """Its status, and how far it came where that is not its end."""
    if experiment.status == "finished" or not experiment.steps:
        return experiment.status
    return f"{experiment.status} at step {experiment.step:,} of {experiment.steps:,}"


def troubles(experiment: Experiment) -> str:
    """The kinds of what was observed, with how often: "loss_spike, slow_steps x 3"."""
    return ", ".join(
        seen["kind"] + (f" x {seen['times']}" if seen.get("times", 1) > 1 else "")
        for seen in experiment.observations
        if seen.get("severity") != "info"
    )


def command_of(experiment: Experiment) -> str:
    """What trained it."""
    return shlex.join(["python", *experiment.command]) if experiment.command else ""


def command_to_go_on(experiment: Experiment) -> str:
    """The same without what would start over."""
    return shlex.join(["python", *(word for word in experiment.command if not word.startswith("run.fresh="))])


def command_with(experiment: Experiment, *changes: str, sweep: bool = False) -> str:
    """A command for another run, with these overrides in place of its own, that begins with the same model."""
    if experiment.began_with:
        changes = (*changes, f'stage.init_from="{Path(experiment.began_with).parent}"')  # quoted for Hydra
    keys = [change.partition("=")[0] for change in changes]
    kept = [one for one in given(experiment) if not one.startswith("run.") and one.partition("=")[0] not in keys]
    return shlex.join(["python", "train.py", *(["-m"] if sweep else []), *kept, *changes])


def setting(value: Any) -> str:
    """A value of an option; of a class's path, its name."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    is_path = isinstance(value, str) and value.startswith("nanochat_pl.")
    return value.rpartition(".")[2] if is_path else text if len(text) <= 60 else f"{text[:57]}..."
