"""What is said of an experiment in a few words, in the file and on the command line."""

import re
import shlex
from typing import Any

from nanochat_pl.reporting.experiments.experiment import Experiment
from nanochat_pl.reporting.tables import duration, gigabytes, number

TRAINED = ("run", "callbacks", "logger", "trainer", "hydra")
"""Sections whose options are left out of a short configuration."""
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
    return gigabytes(value) if metric == "peak_memory_bytes" else f"{value:.4f}"


def suites(experiment: Experiment) -> str:
    """The results of its suites: "tiny 0.7125, core 0.2210"."""
    return ", ".join(
        f"{suite} {experiment.results[suite]:.4f}" for suite in experiment.evaluations if suite in experiment.results
    )


def given(experiment: Experiment) -> list[str]:
    """The overrides of its command, for this run alone."""
    if experiment.overrides or "-m" in experiment.command or "--multirun" in experiment.command:
        return experiment.overrides
    return experiment.command[1:]


def short_config(experiment: Experiment, most: int = 6) -> str:
    """The recipe and what was chosen beside it."""
    chosen = [override for override in given(experiment) if re.split(r"[.=@]", override.lstrip("+~"))[0] not in TRAINED]
    chosen = [override for override in chosen if override != f"recipe={experiment.recipe}"]
    more = [f"and {len(chosen) - most} more"] if len(chosen) > most else []
    return ", ".join([experiment.recipe or "?", *chosen[:most], *more])


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
    """What trained it, and goes on with it."""
    return shlex.join(["python", *experiment.command]) if experiment.command else ""


def command_with(experiment: Experiment, *changes: str, sweep: bool = False) -> str:
    """A command for another run, with these overrides in place of its own."""
    keys = tuple(change.partition("=")[0] for change in changes)
    kept = [one for one in given(experiment) if not one.startswith("run.") and one.partition("=")[0] not in keys]
    return shlex.join(["python", "train.py", *(["-m"] if sweep else []), *kept, *changes])


def setting(value: Any) -> str:
    """A value of an option; of a class's path, its name."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    is_path = isinstance(value, str) and value.startswith("nanochat_pl.")
    return value.rpartition(".")[2] if is_path else text if len(text) <= 60 else f"{text[:57]}..."
