"""What the folders of a run hold, read for its report; broken or missing records are empty ones."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nanochat_pl.checkpoint.header import STAGES
from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.paths import runs_root
from nanochat_pl.core.run_folder import RunFolder

LAST_WORDS = 8
"""Lines of train.log that are shown of a stage that did not end well."""

Figures = dict[str, float]
"""What was measured: accuracy, standard_error, ..."""


@dataclass(frozen=True)
class SuiteResult:
    """What a suite of evaluations measured at one step.

    Attributes:
        metric: what `own` is, as CORE or bits per byte.
        own: the suite's value with its standard_error.
        tasks: what is behind it.
    """

    metric: str
    own: Figures
    tasks: dict[str, Figures]


@dataclass(frozen=True)
class StageRecord:
    """One stage of a run.

    Attributes:
        name: base, mid, sft or rl.
        summary, config, resolved: the files of these names.
        metrics: as `RunFolder.read_metrics`.
        evaluations: suite -> step -> result, in order of steps.
        invocations: the commands that trained it, the first first.
        samples: what it wrote at the last step that has samples.
        samples_step: that step; None where there are none.
        plan: plan.txt.
        last_words: the end of train.log.
        has_picture: whether there is a loss.png.
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
    path = next((place for place in places if _stages_of(place)), None)
    if path is None:
        names = run_names()
        there = f"Runs: {', '.join(names)}." if names else "There are none; `python train.py` makes one."
        raise UserError(f"There is no run '{name}' under {runs_root()}{nearest(name, names)} {there}")
    return RunRecord(path.resolve().name, path, [load_stage(RunFolder(path / stage)) for stage in _stages_of(path)])


def run_names() -> list[str]:
    """The runs under the runs root, the newest first."""
    root = runs_root()
    runs = [path for path in root.iterdir() if _stages_of(path)] if root.is_dir() else []
    return [path.name for path in sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True)]


def load_stage(run: RunFolder) -> StageRecord:
    """The records in the folder of one stage."""
    samples_step, samples = _last_samples(_read(run.samples))
    return StageRecord(
        name=run.path.name,
        folder=run,
        summary=run.read_summary(),
        config=_read_yaml(run.config),
        resolved=_as_dict(_parsed(_read(run.resolved))),
        metrics=run.read_metrics(),
        evaluations=_evaluations(run.read_evaluations()),
        invocations=_records(_read(run.invocations)),
        samples=samples,
        samples_step=samples_step,
        plan=_read(run.plan).rstrip(),
        last_words="\n".join(_read(run.log).rstrip().splitlines()[-LAST_WORDS:]),
        has_picture=run.loss_picture.is_file(),
    )


def _stages_of(path: Path) -> list[str]:
    files = ("summary.json", "config.yaml")
    return [stage for stage in reversed(STAGES) if any((path / stage / file).is_file() for file in files)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return _as_dict(yaml.safe_load(_read(path)))
    except yaml.YAMLError:
        return {}


def _records(text: str) -> list[dict[str, Any]]:
    return [record for line in text.splitlines() if (record := _as_dict(_parsed(line)))]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _evaluations(suites: dict[str, Any]) -> dict[str, dict[int, SuiteResult]]:
    found = {}
    for suite, steps in suites.items():
        results = {int(step): _as_dict(result) for step, result in _as_dict(steps).items() if step.isdecimal()}
        if results:
            found[suite] = {step: _result(results[step]) for step in sorted(results)}
    return found


def _result(result: dict[str, Any]) -> SuiteResult:
    tasks = [task for task in result.get("tasks") or [] if isinstance(task, dict)]
    return SuiteResult(
        metric=str(result.get("metric", "value")),
        own=_figures(result),
        tasks={str(task.get("label")): _figures(task) for task in tasks},
    )


def _figures(values: dict[str, Any]) -> Figures:
    return {key: float(x) for key, x in values.items() if isinstance(x, int | float) and math.isfinite(x)}


def _last_samples(text: str) -> tuple[int | None, list[str]]:
    parts = re.split(r"^\[step (\d+)\] ", text, flags=re.MULTILINE)
    pairs = [(int(step), sample.rstrip("\n")) for step, sample in zip(parts[1::2], parts[2::2])]
    if not pairs:
        return None, []
    last = pairs[-1][0]
    return last, [sample for step, sample in pairs if step == last]
