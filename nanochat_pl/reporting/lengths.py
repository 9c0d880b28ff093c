"""Bits per byte over the length of the rows: how well models go on beyond the context that they were trained on."""

import os
import re
from pathlib import Path
from typing import Any

from nanochat_pl.core.paths import replacing

Found = dict[str, dict[int, float]]
"""Model -> tokens of a row -> bits per byte; a length that the model refuses is not there."""
NONE = "n/a"


def print_lengths(found: Found, lengths: list[int]) -> None:
    """A row for each model, and how far each figure is from that of the shortest rows."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title="bits per byte in rows of so many tokens", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for length in lengths:
        table.add_column(f"{length:,}", justify="right")
    for name, values in zip(_apart(list(found)), found.values()):
        first = values.get(lengths[0])
        cells = [NONE if n not in values else _cell(values[n], first if n != lengths[0] else None) for n in lengths]
        table.add_row(name, *cells)
    Console().print(table)


def _cell(value: float, first: float | None) -> str:
    return f"{value:.4f}" if first is None else f"{value:.4f} ({value / first - 1:+.1%})"


def _apart(names: list[str]) -> list[str]:
    """What sets the names apart, without the parts that all begin and end with."""
    if len(names) == 1:
        return names
    shared = [os.path.commonprefix(texts) for texts in (names, [name[::-1] for name in names])]  # noqa: RUF071
    begin, end = (len(text) - len(re.split("[/,=]", text)[-1]) for text in shared)
    return [name[begin : len(name) - end] or name for name in names]


def draw_lengths(found: Found, out: Path) -> None:
    """A line for each model into a PNG.

    Raises:
        MachineError: it cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    lengths = sorted({length for values in found.values() for length in values})
    labels = [
        name if max(values) == lengths[-1] else f"{name} ({NONE} beyond {max(values):,})"
        for name, values in zip(_apart(list(found)), found.values())
    ]
    columns = 2 if max(map(len, labels)) < 45 else 1
    with rc_context({"text.parse_math": False}):  # a name with two dollars is no formula
        figure = Figure(figsize=(6.5, 3.6 + 0.2 * len(found) / columns), dpi=100, layout="constrained")
        axes: Any = figure.add_subplot()
        for label, values in zip(labels, found.values()):
            axes.plot(list(values), list(values.values()), marker="o", markersize=4, linewidth=1.6, label=label)
        axes.set(xscale="log", xlabel="tokens of a row", ylabel="bits per byte")
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
        with replacing(out) as temporary:
            figure.savefig(temporary, format="png")
