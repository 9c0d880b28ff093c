"""One experiment: what is known of a stage of a run, read from its folder."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nanochat_pl.checkpoint.header import STAGES
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.findings import read_events, read_findings
from nanochat_pl.core.flat import flat
from nanochat_pl.core.run_folder import RunFolder, as_object
from nanochat_pl.core.spec import call_checked
from nanochat_pl.core.sweep_folder import first_sentence
from nanochat_pl.reporting.records import StageRecord, as_number, load_stage

NOT_SETTINGS = ("run.", "callbacks.", "logger.", "hw.threads", "hw.loader_threads", "hw.timeout_seconds")
"""Options that change neither what is trained nor how fast."""
RESULTS = (
    "val_bpb", "val_loss", "train_loss", "tokens", "parameters", "tokens_per_second", "wall_seconds",
    "peak_memory_bytes", "world_size",
)  # fmt: skip
"""Numbers of summary.json."""
LAST_OF = ("val/reward", "val/pass@", "rl/")
"""Metrics of metrics.csv whose last value is a result too."""
SMALLER_IS_BETTER = ("bpb", "loss", "bits per byte", "seconds", "bytes")


@dataclass(frozen=True)
class Experiment:
    """A line of experiments.jsonl.

    Attributes:
        name: of its folder under the runs root: tiny/base.
        status: finished, running, interrupted, diverged, failed; killed where it runs no more and has not said so.
        began: when it was first begun, in ISO 8601.
        goal: what it was to find out; "" where nobody said.
        overrides: of this run, where the command is of a sweep.
        began_with: the folder of the model that the stage began with; "" for base.
        lr_scale: the factor on all learning rates, given or decided.
        results: name -> value: of `RESULTS`, of suites, of `LAST_OF`.
        evaluations: suite -> step, metric, value and standard_error of its last result.
        error: why it did not finish, where that is known.
        observations: of the callbacks that watch, each kind once: kind, step, message, advice, severity, times.
        settings: option -> value, without those of `NOT_SETTINGS`.
        parent: the name of the experiment that it is compared with; "" where that is the recipe's defaults.
        differences: (option, the parent's value, its value).
        stamp: of the records that it was read from; the same as long as these are.
    """

    name: str
    stage: str
    status: str
    began: str = ""
    goal: str = ""
    command: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    recipe: str = ""
    began_with: str = ""
    hardware: str = ""
    git_commit: str = ""
    step: int = 0
    steps: int | None = None
    lr_scale: float | None = None
    results: dict[str, float] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str = ""
    observations: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    parent: str = ""
    differences: list[list[Any]] = field(default_factory=list)
    stamp: int = 0

    @property
    def identity(self) -> str:
        """The same for a run before and after it is moved aside, and another for the one that takes its place."""
        return f"{self.name.partition('.before-')[0]}@{self.began}"

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Self | None:
        """From a line of experiments.jsonl; None where it is none of this version."""
        known = {item.name: record[item.name] for item in dataclasses.fields(cls) if item.name in record}
        try:
            return call_checked(cls, known, "")
        except UserError:
            return None

    def as_record(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Ending:
    """How a training ends that has not yet written so into its folder."""

    status: str
    error: str = ""


def stage_of(folder: Path) -> str | None:
    """The stage that a folder holds, also one that was moved aside; None where it is none of a stage."""
    stage = folder.name.partition(".before-")[0]
    return stage if stage in STAGES else None


def stamp_of(run: RunFolder) -> int:
    """The newest change of what `read_experiment` reads, in nanoseconds; 0 where there is nothing."""
    files = (run.summary, run.config, run.events, run.evaluations, run.invocations)
    return max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)


def read_experiment(run: RunFolder, name: str, ending: Ending | None = None) -> Experiment:
    """What a stage's folder says; all but the parent.

    Args:
        ending: of the training that asks; else one that says "running" is killed where nobody holds its folder.
    """
    stamp, record = stamp_of(run), load_stage(run)
    trained = [call for call in record.invocations if "resumed_step" in call]
    latest = trained[-1] if trained else {}
    status, error = (ending.status, ending.error) if ending else (record.status, "")
    if status == "running" and not run.is_held():
        status = "killed"
    if ending is None and status in ("failed", "diverged", "interrupted"):
        error = next((str(event.get("error", "")) for event in read_events(run)[::-1] if event["event"] == status), "")
    hardware = as_object(record.resolved.get("hardware"))
    began_with = str(as_object(record.resolved.get("parent")).get("path", ""))
    goals = [call["goal"] for call in trained if call.get("goal") is not None]
    return Experiment(
        name=name,
        stage=stage_of(run.path) or record.name,
        status=status,
        began=str(trained[0].get("time", "")) if trained else "",
        goal=str(goals[-1]) if goals else "",
        command=_words(record.summary.get("command") or latest.get("command")),
        overrides=_words(latest.get("overrides")),
        recipe=str(record.config.get("recipe_name", "")),
        began_with=began_with,
        hardware=_hardware(hardware),
        git_commit=str(record.summary.get("git_commit") or ""),
        step=int(record.number("step") or 0),
        steps=None if (steps := as_number(record.resolved.get("steps"))) is None else int(steps),
        lr_scale=None if (scale := as_number(record.resolved.get("lr_scale"))) is None else float(scale),
        results=_results(record),
        evaluations=_evaluations(record),
        error=first_sentence(error) if error else "",
        observations=_observations(run),
        settings=_settings(record.config, began_with),
        stamp=stamp,
    )


def smaller_is_better(metric: str) -> bool:
    """Whether less of it is better."""
    return any(word in metric for word in SMALLER_IS_BETTER)


def _words(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, list) else []


def _hardware(resolved: Mapping[str, Any]) -> str:
    chip, count = as_object(resolved.get("chip")), [as_number(resolved.get(name)) for name in ("devices", "nodes")]
    if not chip or None in count:
        return ""
    return f"{int(count[0] or 1) * int(count[1] or 1)} x {chip.get('name')}, {resolved.get('precision')}"


def _settings(config: dict[str, Any], began_with: str) -> dict[str, Any]:
    """With the model that the stage began with where the configuration has the nearest."""
    settings = {key: value for key, value in flat(config).items() if not key.startswith(NOT_SETTINGS)}
    return settings | ({"stage.init_from": began_with} if began_with else {})


def _results(record: StageRecord) -> dict[str, float]:
    results = {name: float(value) for name in RESULTS if (value := record.number(name)) is not None}
    for suite, own in _evaluations(record).items():
        if (value := as_number(own.get("value"))) is not None:
            results[suite] = float(value)
    for name, points in record.metrics.items():
        if name.startswith(LAST_OF) and (value := as_number(points[-1][1])) is not None:
            results[name] = float(value)
    return results


def _evaluations(record: StageRecord) -> dict[str, dict[str, Any]]:
    """The last result of each suite."""
    last = {}
    for suite, steps in record.evaluations.items():
        step = max(steps)
        figures = {name: steps[step].own[name] for name in ("value", "standard_error") if name in steps[step].own}
        last[suite] = {"step": step, "metric": steps[step].metric} | figures
    return last


def _observations(run: RunFolder) -> list[dict[str, Any]]:
    """The first finding of each kind, and how many there are."""
    findings = read_findings(run)
    times = Counter(finding.kind for finding in findings)
    first = {finding.kind: finding for finding in findings[::-1]}
    kept = ("kind", "step", "message", "advice", "severity")
    return [{name: getattr(first[kind], name) for name in kept} | {"times": times[kind]} for kind in times]
