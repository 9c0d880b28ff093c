"""experiments.jsonl: all experiments, also those whose folders are gone; made anew from the folders where it can be."""

import json
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.core.paths import free_name, replacing
from nanochat_pl.core.run_folder import RunFolder, parse_object
from nanochat_pl.reporting.experiments.comparing import differences, parent_of
from nanochat_pl.reporting.experiments.experiment import Ending, Experiment, read_experiment, stage_of, stamp_of

LOCK_SECONDS = 5.0
"""So long a file is waited for that another process is writing to."""


class LockedError(MachineError):
    """Another process holds a file and does not let it go."""


def ledger_of(root: Path) -> Path:
    """The file with the experiments of a folder of runs."""
    return root / "experiments.jsonl"


def read_experiments(root: Path, endings: Mapping[str, Ending] | None = None) -> list[Experiment]:
    """All experiments in the order in which they began: as their folders are now, or as they were before they went."""
    known, _ = _read(ledger_of(root))
    return _refreshed(root, known, endings or {})


def keep_experiments(root: Path, endings: Mapping[str, Ending] | None = None) -> list[Experiment]:
    """The same, and write them where something has changed. What is no record there is kept in a copy of the file.

    Raises:
        LockedError: another process holds the file.
        UserError: it is read-only.
        MachineError, OSError: it cannot be written.
    """
    path = ledger_of(root)
    if not root.is_dir():
        return []
    with holding(path):
        known, is_whole = _read(path)
        experiments = _refreshed(root, known, endings or {})
        if experiments != list(known.values()) or not is_whole:
            if not is_whole:
                keep_copy(path)
            lines = (json.dumps(experiment.as_record(), default=str) for experiment in experiments)
            write_over(path, "".join(f"{line}\n" for line in lines).encode())
    return experiments


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """No other process writes to the file meanwhile.

    Raises:
        LockedError: one does not end.
    """
    from filelock import FileLock, Timeout

    lock = path.with_name(f"{path.name}.lock")
    try:
        with FileLock(lock).acquire(timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise LockedError(
            f"Another process has held {lock} for {LOCK_SECONDS:g} s, so {path.name} is as it was. It catches up at "
            "the next training, or with `python -m nanochat_pl experiments write`; end that process if it hangs."
        ) from None


def write_over(path: Path, content: bytes) -> None:
    """Replace the file at once, unless its owner has made it read-only.

    Raises:
        UserError: that.
        MachineError: the disk is full or not writable.
    """
    path = path.resolve()
    if path.exists() and not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(f"{path} is read-only, so it is as it was; `chmod u+w` lets it be kept up to date.")
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def keep_copy(path: Path) -> Path:
    """Copy the file to NAME.before-TIME beside it."""
    copy = path.with_name(f"{path.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
    return Path(shutil.copy2(path, free_name(copy)))


def _read(path: Path) -> tuple[dict[str, Experiment], bool]:
    """name -> experiment, and whether every line is one."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    except FileNotFoundError:
        return {}, True
    except OSError:  # another user's, or a folder: the folders of the runs tell as well
        return {}, False
    experiments = [experiment for line in lines if (experiment := Experiment.of_record(parse_object(line)))]
    return {experiment.name: experiment for experiment in experiments}, len(experiments) == len(lines)


def _refreshed(root: Path, known: Mapping[str, Experiment], endings: Mapping[str, Ending]) -> list[Experiment]:
    folders = (file.parent for file in root.glob("*/*/summary.json"))
    names = {folder.relative_to(root).as_posix() for folder in folders if stage_of(folder)}
    names |= endings.keys() | {name for name in known if (root / name / "summary.json").is_file()}
    fresh = []
    for name in sorted(names):
        run, before = RunFolder(root / name), known.get(name)
        is_settled = before is not None and before.status != "running" and before.stamp == stamp_of(run)
        if name in endings or not is_settled:
            fresh.append(read_experiment(run, name, endings.get(name)))
    here = [*fresh, *(known[name] for name in names - {experiment.name for experiment in fresh})]
    identities = {experiment.identity for experiment in here}  # also of those that were moved aside
    gone = (one for name, one in known.items() if name not in names and one.identity not in identities)
    gone = (replace(one, status="killed") if one.status == "running" else one for one in gone)
    experiments = sorted([*here, *gone], key=lambda experiment: (experiment.began, experiment.name))
    changed = {experiment.name for experiment in fresh}
    return [
        _with_parent(experiment, experiments[:place]) if experiment.name in changed else experiment
        for place, experiment in enumerate(experiments)
    ]


def _with_parent(experiment: Experiment, earlier: list[Experiment]) -> Experiment:
    parent = parent_of(experiment, earlier)
    if parent is None:
        return experiment
    return replace(experiment, parent=parent.name, differences=differences(parent, experiment))
