"""Tables of a report."""

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
