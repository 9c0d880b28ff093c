"""Stop: tells the desktop that the assistant waits, and how the newest run stands."""

from __future__ import annotations  # a machine's own python3 may be older than the project's

import os
from typing import Any

from desktop import notify
from project import PROJECT, answer, newest_runs, runs_root, told


def stopped(event: dict[str, Any]) -> None:
    if not event.get("stop_hook_active"):
        runs = newest_runs(runs_root(os.environ, PROJECT), 1)
        notify("Claude Code waits for you in nanochat-pl", told(runs[0]) if runs else "There are no runs yet.")


answer(stopped)
