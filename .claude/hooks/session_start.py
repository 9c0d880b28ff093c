"""SessionStart: what this machine and this folder have, and the commands that are wanted first."""

from __future__ import annotations  # a machine's own python3 may be older than the project's

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from project import PROJECT, answer, newest_runs, patience, python, runs_root, told

COMMANDS = """\
python train.py [recipe=tiny] [stage=base|mid|sft|rl] [hw=...]   train; the same command goes on after a stop
python -m nanochat_pl plan recipe=d12 +hw=h100x1                 memory, time and rent, nothing is trained
python -m nanochat_pl doctor runs/NAME                           what is wrong with a machine or a run
python -m nanochat_pl experiments list                           all runs, side by side
python -m nanochat_pl chat runs/NAME                             talk to a model
make lint && make test                                           before every commit"""


def started(event: dict[str, Any]) -> dict[str, Any] | None:
    root = runs_root(os.environ, PROJECT)
    lines = [
        f"nanochat-pl: {python()}, {_installed()}, {_gpus()}, {_disk(root)}{_branch()}",
        *(f"run {told(run)}" for run in newest_runs(root, 3)),
        COMMANDS,
    ]
    return {"hookSpecificOutput": {"hookEventName": "SessionStart", "additionalContext": "\n".join(lines)}}


def _installed() -> str:
    """The version of torch there, found without importing it."""
    libraries = Path(python() or "").parents[1].glob("lib/python3*/site-packages/torch-*.dist-info")
    version = next((path.name.removesuffix(".dist-info").removeprefix("torch-") for path in libraries), None)
    return f"torch {version}" if version else "no torch (make install)"


def _gpus() -> str:
    if shutil.which("nvidia-smi") is None:
        return "no NVIDIA GPU"
    query = ["nvidia-smi", "--query-gpu=name,memory.free", "--format=csv,noheader"]
    said = _output(query)
    return f"GPUs (free): {'; '.join(said.splitlines())}" if said else "nvidia-smi does not answer"


def _disk(root: Path) -> str:
    while not root.exists():
        root = root.parent
    return f"{shutil.disk_usage(root).free / 1e9:.0f} GB free for runs"


def _branch() -> str:
    branch = _output(["git", "-C", str(PROJECT), "branch", "--show-current"])
    return f", git branch {branch}" if branch else ""


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=patience() / 2).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


answer(started)
