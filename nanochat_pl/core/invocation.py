"""What a run's records say about the program and machine that ran it."""

import functools
import importlib.metadata
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nanochat_pl import STARTED

_started = [STARTED]


def job_started() -> float:
    """`time.perf_counter()` when this process's next job begins: the first began with the process."""
    return _started.pop() if _started else time.perf_counter()


def invocation() -> dict[str, Any]:
    """The command, the commit and the versions of what matters, for invocations.jsonl and summary.json."""
    return {"command": [Path(sys.argv[0]).name, *sys.argv[1:]]} | program()


def program() -> dict[str, Any]:
    """The commit and the versions of what matters."""
    packages = ("torch", "lightning", "hydra-core", "tiktoken", "rustbpe", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"git_commit": git_commit(), "versions": {"python": platform.python_version()} | versions}


@functools.cache  # what is edited later is not what runs here
def git_commit() -> str | None:
    """The commit of the checkout that this package runs from, with "+changes" where it was edited; None outside one."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit


def _git(*arguments: str) -> str:
    here = Path(__file__).resolve().parent
    result = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True, timeout=10)
    return result.stdout.strip()
