"""What the folders of a run hold, read for its report; broken or missing records are empty ones."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nanochat_pl.checkpoint.header import STAGES
from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.paths import runs_root
from nanochat_pl.core.run_folder import RunFolder, as_object, parse_object, read_object

LAST_WORDS = 8
"""Lines of train.log that are shown of a stage that did not end well."""

Figures = dict[str, float]
"""What was measured: accuracy, standard_error, ..."""


@dataclass(frozen=True)
class SuiteResult:
    """What a suite of evaluations measured at one step.

    Attributes:
        metric: what `own` is, as CORE or bits per byte.
        own: the suite's value with its standard_error, and the count of the questions of all tasks.
        tasks: what is behind it.
    """

    metric: str
    own: Figures
    tasks: dict[str, Figures]


@dataclass(frozen=True)
class StageRecord:
    """One stage of a run.

    Attributes:
        summary, config, resolved: the files of these names.
        metrics: as `RunFolder.read_metrics`.
        evaluations: suite -> step -> result, in order of steps.
        invocations: the commands that trained and evaluated it.
        samples: what it wrote at the last step that has samples.
        samples_step: that step; None where there are none.
    """

    name: str
    folder: RunFolder
    summary: dict[str, Any]
    config: dict[str, Any]
    resolved: dict[str, Any]
    metrics: dict[str, list[tuple[int, float]]]
    evaluations: dict[str, dict[int, SuiteResult]]
    invocations: list[dict[str, Any]]
    samples: list[str]
    samples_step: int | None
    plan: str
    last_words: str
    has_picture: bool

    @property
    def status(self) -> str:
        """finished, running, interrupted, diverged or failed; "not begun" where nothing was trained."""
        return str(self.summary.get("status", "not begun"))

    def number(self, name: str) -> int | float | None:
        """A number of the summary; None where it is not there."""
        return as_number(self.summary.get(name))


@dataclass(frozen=True)
class RunRecord:
    """A run and those of its stages that are there, in the order of training."""

    name: str
    path: Path
    stages: list[StageRecord]


def load_run(name: str) -> RunRecord:
    """The records of the run `name`: a folder under the runs root or a path, or a stage of one (of all stages then).

    Raises:
        UserError: there is no such run; the message names those that there are.
    """
    places = [runs_root() / name, Path(name).expanduser()]
    places += [place.parent for place in places if place.name in STAGES]
    path = next((place for place in places if stages_of(place)), None)
    if path is None:
        raise no_such_run(name)
    return RunRecord(path.resolve().name, path, [load_stage(RunFolder(path / stage)) for stage in stages_of(path)])


def no_such_run(name: str) -> UserError:
    """With the names of those that there are."""
    names = run_names()
    there = f"Runs: {', '.join(names[:10])}." if names else "There are none; `python train.py` makes one."
    return UserError(f"There is no run '{name}' under {runs_root()}{nearest(name, names)} {there}")


def run_names() -> list[str]:
    """The runs under the runs root, the newest first."""
    root = runs_root()
    runs = [path for path in root.iterdir() if stages_of(path)] if root.is_dir() else []
    return [path.name for path in sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True)]


def load_stage(run: RunFolder) -> StageRecord:
    """The records in the folder of one stage."""
    samples, evaluations = run.read_samples(), run.read_evaluations()
    trained = [record for line in _read(run.invocations).splitlines() if (record := parse_object(line))]
    evaluated = [result for results in evaluations.values() for result in results.values() if result.get("command")]
    return StageRecord(
        name=run.path.name,
        folder=run,
        summary=run.read_summary(),
        config=_read_yaml(run.config),
        resolved=read_object(run.resolved),
        metrics=run.read_metrics(),
        evaluations=_evaluations(evaluations),
        invocations=trained + evaluated,
        samples=[text for step, text in samples if step == samples[-1][0]],
        samples_step=samples[-1][0] if samples else None,
        plan=_read(run.plan).rstrip(),
        last_words="\n".join(_read(run.log).rstrip().splitlines()[-LAST_WORDS:]),
        has_picture=run.loss_picture.is_file(),
    )


def as_number(value: Any) -> int | float | None:
    """The value where it is a finite number, else None."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def as_list(value: Any) -> list[Any]:
    """The value where it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def stages_of(path: Path) -> list[str]:
    files = ("summary.json", "config.yaml")
    return [stage for stage in reversed(STAGES) if any((path / stage / file).is_file() for file in files)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return as_object(yaml.safe_load(_read(path)))
    except yaml.YAMLError:
        return {}


def _evaluations(suites: dict[str, dict[str, Any]]) -> dict[str, dict[int, SuiteResult]]:
    return {
        suite: {int(step): _result(results[step]) for step in sorted(results, key=int)}
        for suite, results in suites.items()
        if results
    }


def _result(result: dict[str, Any]) -> SuiteResult:
    tasks = {str(task.get("label")): _figures(task) for task in map(as_object, as_list(result.get("tasks"))) if task}
    own = _figures(result)
    if counts := [figures.get("count", 0.0) for figures in tasks.values()]:
        own["count"] = sum(counts)
    return SuiteResult(metric=str(result.get("metric", "value")), own=own, tasks=tasks)


def _figures(values: dict[str, Any]) -> Figures:
    return {key: float(number) for key, value in values.items() if (number := as_number(value)) is not None}
