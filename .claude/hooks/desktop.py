"""A notification on the desktop, where there is one."""

from __future__ import annotations  # a machine's own python3 may be older than the project's

import html
import os
import shutil
import subprocess


def notify(title: str, text: str) -> None:
    """Show it with what Linux (notify-send) or macOS (osascript) has; elsewhere nothing happens."""
    if shutil.which("notify-send") and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        command = ["notify-send", "--app-name=nanochat-pl", title, html.escape(text)]
    elif shutil.which("osascript"):
        script = "on run argv\ndisplay notification (item 2 of argv) with title (item 1 of argv)\nend run"
        command = ["osascript", "-e", script, title, text]
    else:
        return
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
