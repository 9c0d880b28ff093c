"""Tables and numbers of a report."""

import math
from dataclasses import dataclass
from typing import NamedTuple


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        note: beside it, smaller.
        tone: "good" or "bad" where it is one of these.
    """

    text: str
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first column names the row."""

    title: str
    head: list[str]
    rows: list[list[Cell]]
    note: str = ""


def duration(seconds: float) -> str:
    """In the two largest units: "2 h 03 min"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02} min"


def number(value: float) -> str:
    """With three digits: "1.31M"."""
    if not math.isfinite(value) or abs(value) < 10_000:
        return f"{value:,.0f}"
    exponent = int(math.log10(float(f"{abs(value):.3g}"))) // 3
    return f"{value / 1000**exponent:.3g}{'kMBTPE'[exponent - 1]}"


def gigabytes(value: float) -> str:
    """Of bytes."""
    return f"{value / 1e9:.2f} GB"
