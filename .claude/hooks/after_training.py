"""PostToolUse on Bash: tells the assistant how the training that a command has run ended.

The desktop is told by the training itself (nanochat_pl/callbacks/tell.py), also of one in the background.
"""

from __future__ import annotations  # a machine's own python3 may be older than the project's

import os
from pathlib import Path
from typing import Any

from project import PROJECT, answer, newest_runs, runs_root, status, told
from training_commands import trainings


def after(event: dict[str, Any]) -> dict[str, Any] | None:
    command = event.get("tool_input", {}).get("command", "")
    if event.get("tool_name") != "Bash" or "train" not in command:
        return None
    started = trainings(command, Path(event.get("cwd") or PROJECT), PROJECT)
    if not started:
        return None
    last = started[-1]
    runs = newest_runs(runs_root(os.environ | last.environment, last.folder), 1)
    if not runs or status(runs[0]) == "running":  # in the background
        return None
    text = f"The newest run: {told(runs[0])}"
    return {"hookSpecificOutput": {"hookEventName": "PostToolUse", "additionalContext": text}}


answer(after)
