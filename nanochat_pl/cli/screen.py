"""What commands show: tables, progress bars, JSON."""

import json
import os
import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table


def table(*columns: str, numbers: int = 0, **options: Any) -> Table:
    """An empty one, of whose columns the last `numbers` hold numbers.

    Args:
        options: of rich's Table.
    """
    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "title_justify": "left"}
    made = Table(**style | options)
    for place, name in enumerate(columns):
        is_number = place >= len(columns) - numbers
        made.add_column(name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    return made


def console() -> Console:
    """As wide as the terminal is, or 140 characters."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140, highlight=False)


def show(*what: Any) -> None:
    """Print it; a text stays in one line."""
    screen = console()
    for one in what:
        screen.print(one, soft_wrap=isinstance(one, str))


def show_json(what: Any) -> None:
    print(json.dumps(what, indent=2, default=str))


def progress(*columns: ProgressColumn) -> Progress:
    """A bar on standard error, where that is a terminal."""
    texts = TextColumn("[bold]{task.description}"), BarColumn()
    console = Console(stderr=True)
    return Progress(*texts, *columns, TimeRemainingColumn(), console=console, disable=not sys.stderr.isatty())
