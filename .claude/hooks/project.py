"""The project that these hooks belong to, and what its runs say of themselves. The standard library alone."""

from __future__ import annotations  # a machine's own python3 may be older than the project's

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 1.6
"""So long a hook may look at things; what takes longer is not looked at."""


def answer(hook: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Read the event, print what the hook says to it. A hook that fails says nothing: it never stands in the way."""
    if os.environ.get("NANOCHAT_PL_HOOKS") == "0" or python() is None:
        return
    try:
        event = json.load(sys.stdin)
        said = hook(event) if isinstance(event, dict) else None
        if said:
            print(json.dumps(said))
    except Exception as error:  # whatever it is, the assistant's work goes on
        print(f"{sys.argv[0]}: {error!r}", file=sys.stderr)


def python() -> Path | None:
    """The interpreter of the environment that is active or lies in the project; None: there is none."""
    for folder in (os.environ.get("VIRTUAL_ENV"), PROJECT / ".venv", os.environ.get("CONDA_PREFIX")):
        if folder and (path := Path(folder) / "bin" / "python").exists():
            return path
    return None


def patience() -> float:
    """Seconds; NANOCHAT_PL_HOOK_SECONDS gives a slow machine more."""
    return float(os.environ.get("NANOCHAT_PL_HOOK_SECONDS") or PATIENCE_SECONDS)


def runs_root(environment: Mapping[str, str], folder: Path) -> Path:
    """As nanochat_pl.core.paths has it, for a command that starts in `folder`."""
    return folder / (environment.get("NANOCHAT_PL_RUNS") or environment.get("OUT_DIR") or "runs")


def newest_runs(root: Path, count: int) -> list[Path]:
    """The folders of the stages (runs/NAME/STAGE) whose summaries changed last, the newest first."""
    summaries = sorted(root.glob("*/*/summary.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in summaries[:count]]


def summary(run: Path) -> dict[str, Any]:
    """Of a stage's folder; empty where there is none that can be read."""
    try:
        read = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def is_training(run: Path) -> bool:
    """Whether a process holds the run's lock (nanochat_pl.core.run_folder), and not for a moment, to look at it."""
    import fcntl

    for _ in range(5):
        try:
            with (run / ".lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        except OSError:  # there is none, or this file system has no locks
            return False
        else:
            return False
    return True


def status(run: Path) -> str:
    """What summary.json says, or "killed" where it says "running" and nothing trains there."""
    said = str(summary(run).get("status", "unknown"))
    return "killed" if said == "running" and not is_training(run) else said


def told(run: Path) -> str:
    """How a run stands, in some words: `tiny/base: finished, step 600, val_bpb 1.234`."""
    facts, parts = summary(run), [status(run)]
    if isinstance(facts.get("step"), int):
        parts.append(f"step {facts['step']:,}")
    if isinstance(facts.get("val_bpb"), float):
        parts.append(f"val_bpb {facts['val_bpb']:.4f}")
    if findings := count_findings(run):
        parts.append(f"findings: {findings} (python -m nanochat_pl doctor {run})")
    return f"{run.parent.name}/{run.name}: {', '.join(parts)}"


def count_findings(run: Path) -> int:
    """Warnings and errors that the callbacks have written to events.jsonl."""
    count = 0
    try:
        with (run / "events.jsonl").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                count += '"event": "finding"' in line and '"severity": "info"' not in line
    except OSError:
        pass
    return count
