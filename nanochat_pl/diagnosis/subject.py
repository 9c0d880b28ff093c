"""The run that the doctor looks at, found by its name."""

import contextlib
from pathlib import Path

from nanochat_pl.checkpoint.header import STAGES
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import runs_root
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.reporting.records import no_such_run, run_names

KEPT = ("config.yaml", "resolved.json", "summary.json", "metrics.csv", "events.jsonl", "checkpoints", "stacks", "model")
"""What tells the folder of a stage from others."""


def find_run(name: str | None) -> RunFolder:
    """A stage of a run: `runs/tiny/base`, of `runs/tiny` or `tiny` the stage that was written last; None: the newest.

    Raises:
        UserError: there is no such run; the message names those that there are.
    """
    if name is None:
        stages = [stage for run in run_names() for stage in _stages(runs_root() / run)]
        if not stages:
            raise UserError(f"There is no run under {runs_root()} yet; `python train.py` makes one.")
        return RunFolder(max(stages, key=_written))
    places = [runs_root() / name, Path(name).expanduser()]
    for place in places:
        if stages := _stages(place):
            return RunFolder(max(stages, key=_written))
        if place.is_dir() and (place.name in STAGES or any((place / kept).exists() for kept in KEPT)):
            return RunFolder(place)
    for place in places:
        if place.is_dir():
            raise UserError(
                f"{place} is no run: it has none of {', '.join(reversed(STAGES))} in it, nor a stage's files."
            )
    raise no_such_run(name)


def _stages(run: Path) -> list[Path]:
    return [run / stage for stage in STAGES if (run / stage).is_dir()]


def _written(stage: Path) -> float:
    """When something was last written into the folder of a stage."""
    times = [stage.stat().st_mtime]
    for name in ("summary.json", "metrics.csv", "events.jsonl"):
        with contextlib.suppress(OSError):
            times.append((stage / name).stat().st_mtime)
    return max(times)
