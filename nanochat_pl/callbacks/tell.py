"""When a training ends, in whatever way: a line in the training log of all runs, and a word on the desktop."""

import contextlib
import html
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

from lightning.pytorch import Callback, Trainer

from nanochat_pl.core.paths import runs_root
from nanochat_pl.core.run_folder import RunFolder, ending_of
from nanochat_pl.core.spec import AtLeast

log = logging.getLogger(__name__)

SECONDS = 3.0
"""So long the desktop may take to show it."""
ON_MACOS = (
    "on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run",
)  # fmt: skip
"""AppleScript that has the text as arguments, where it is no program."""


class Tell(Callback):
    """Behind the callbacks that write down how it went. What goes wrong here never ends or fails a training.

    Args:
        after_minutes: so long this invocation must have trained before the desktop is told; None: it never is.
    """

    def __init__(self, after_minutes: Annotated[float | None, AtLeast(0)] = 5.0):
        self._after_seconds = None if after_minutes is None else 60 * after_minutes
        self._started: float | None = None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self._started = time.monotonic()

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self._tell(trainer, "finished")

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._tell(trainer, ending_of(exception)["status"])

    def _tell(self, trainer: Trainer, status: str) -> None:
        if self._started is None or not trainer.is_global_zero:
            return
        seconds, self._started = time.monotonic() - self._started, None
        run = RunFolder(trainer.default_root_dir)
        told = _told(run, status, trainer.global_step)
        try:
            with training_log().open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')}  {told}\n")
        except OSError as error:
            log.warning("Could not write %s: %s", training_log(), error)
        if self._after_seconds is not None and seconds >= self._after_seconds:
            notify(f"nanochat-pl: {status}", told)


def training_log() -> Path:
    """A line for every training that ended, of all runs."""
    return runs_root() / "training.log"


def notify(title: str, text: str) -> None:
    """Show a notification where this process belongs to a desktop; gives up after SECONDS."""
    command = _notifier(title, text)
    if command is not None:
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=SECONDS,
                start_new_session=True,  # Ctrl-C is for the training
            )


def _notifier(title: str, text: str) -> list[str] | None:
    if sys.platform == "darwin" and "SSH_CONNECTION" not in os.environ and (program := shutil.which("osascript")):
        return [program, *(word for line in ON_MACOS for word in ("-e", line)), title, text]
    has_desktop = "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if sys.platform == "linux" and has_desktop and (program := shutil.which("notify-send")):
        return [program, "--app-name=nanochat-pl", "--", title, html.escape(text)]  # the text is read as markup
    return None


def _told(run: RunFolder, status: str, step: int) -> str:
    """How it ended, in one line."""
    summary = run.read_summary()
    name = os.path.relpath(run.path, runs_root())
    parts = [f"{status:<11}", "".join(letter if letter.isprintable() else "?" for letter in name), f"step {step:,}"]
    if isinstance(val_bpb := summary.get("val_bpb"), float):
        parts.append(f"val bpb {val_bpb:.4f}")
    if isinstance(seconds := summary.get("wall_seconds"), float):
        parts.append(f"{seconds:.0f} s")
    return "  ".join(parts)
