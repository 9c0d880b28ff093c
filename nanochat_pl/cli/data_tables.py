"""What the `data` commands show: progress bars, the verification's table, the table of lengths."""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import DownloadColumn, Progress, TaskID, TaskProgressColumn, TransferSpeedColumn
from rich.table import Table

from nanochat_pl.cli.screen import progress, table
from nanochat_pl.data.statistics import ESTIMATED_BYTES_PER_TOKEN, PERCENTILES, UNITS, DocumentLengths
from nanochat_pl.data.verify import TINY_CHARACTERS, ColumnSummary, FileReport, Verification

if TYPE_CHECKING:
    from nanochat_pl.data.at_hand import FilesAtHand
    from nanochat_pl.tokenizers.base import Tokenizer

SHOWN_FILES = 20
"""Rows of the table for files without faults; those with faults are all shown."""


@contextlib.contextmanager
def bar_of_bytes(description: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
    """A progress bar on standard error, if that is a terminal, that counts bytes."""
    with progress(DownloadColumn(), TransferSpeedColumn()) as bar:
        yield bar, bar.add_task(description, total=total)


@contextlib.contextmanager
def bar_of_share(description: str) -> Iterator[tuple[Progress, TaskID]]:
    """A progress bar on standard error, if that is a terminal, from 0 to 1."""
    with progress(TaskProgressColumn()) as bar:
        yield bar, bar.add_task(description, total=1.0)


def print_verification(console: Console, verification: Verification, at_hand: "FilesAtHand") -> bool:
    """Print what was found; returns whether nothing is wrong."""
    reports = verification.reports
    console.print(_table_of_files(reports))
    if verification.columns:
        console.print(_table_of_columns(verification.columns))
    for name, text in verification.samples:
        console.print(Panel(escape(text), title=escape(name), title_align="left", border_style="dim"))
    for report in reports:
        for fault in report.faults:
            console.print(f"[red]{escape(report.name)}: {escape(fault)}[/]", highlight=False)
    for name, reason in at_hand.left_out.items():
        console.print(f"[red]{escape(name)}: left out of training: {escape(reason)}[/]", highlight=False)
    faulty = sum(bool(report.faults) for report in reports)
    checked = sum(report.sha256_checked for report in reports)
    parts = [f"{len(reports):,} of {at_hand.num_files:,} files are at hand"]
    parts += [f"{checked:,} have the sha256 they should"] if checked else []
    parts += [f"{len(at_hand.left_out):,} are left out of training"] if at_hand.left_out else []
    parts += [f"{faulty:,} with faults" if faulty else "no faults"]
    console.print(f"{'; '.join(parts)}.", highlight=False)
    return not faulty and not at_hand.left_out


def _table_of_files(reports: list[FileReport]) -> Table:
    folder = os.path.dirname(os.path.commonprefix([report.name for report in reports]))  # noqa: RUF071  (cut at a /)
    shown = table(
        "file", "MB", "documents", "null", "empty", "tiny", "copies", "above", numbers=7, title=escape(folder) or None,
        caption=f"tiny: under {TINY_CHARACTERS} characters; copies: of others in the file; above: of files above",
        caption_justify="left",
    )  # fmt: skip
    sound = [report for report in reports if not report.faults]
    hidden = sound[SHOWN_FILES:] if len(sound) > SHOWN_FILES + 1 else []
    hidden_ids = {id(report) for report in hidden}
    for report in reports:
        if id(report) not in hidden_ids:
            name = os.path.relpath(report.name, folder) if folder else report.name
            shown.add_row(escape(name), *_cells([report]), style="red" if report.faults else None)
    if hidden:
        shown.add_row(f"{len(hidden):,} more", *_cells(hidden), style="dim")
    if len(reports) > 1:
        shown.add_section()
        shown.add_row("all", *_cells(reports), style="bold")
    return shown


def _cells(reports: list[FileReport]) -> list[str]:
    counts = ("documents", "null", "empty", "tiny", "duplicates", "duplicates_elsewhere")
    totals = [sum(getattr(report, name) for report in reports) for name in counts]
    size = sum(report.num_bytes for report in reports) / 1e6
    return [f"{size:,.1f}", *(f"{total:,}" for total in totals)]


def _table_of_columns(columns: dict[str, ColumnSummary]) -> Table:
    shown = table("column", "null", "mean", "least", "most", numbers=4)
    shown.add_column("values")
    for name, column in columns.items():
        most_common = column.values.most_common(4)
        values = ", ".join(f"{value}: {count / column.rows:.1%}" for value, count in most_common)
        rest = ", ..." if len(column.values) > len(most_common) else ""
        numbers = (column.mean, column.minimum, column.maximum)
        shown.add_row(name, f"{column.null:,}", *("" if n is None else f"{n:,.4g}" for n in numbers), values + rest)
    return shown


def print_lengths(
    console: Console,
    source: str,
    train: DocumentLengths,
    held_out: DocumentLengths | None,
    tokenizer: "Tokenizer | None",
) -> None:
    """Print the totals of both sides, and the lengths of the documents to train on."""
    sides = {"to train on": train} | ({"held out": held_out} if held_out is not None else {})
    totals = table("", *sides, numbers=len(sides), title=escape(source))
    totals.add_row("documents", *(f"{len(lengths):,}" for lengths in sides.values()))
    for unit in UNITS:
        totals.add_row(unit, *(f"{lengths.of(unit).sum():,}" for lengths in sides.values()))
    totals.add_row("bytes per token", *(f"{_bytes_per_token(lengths):.2f}" for lengths in sides.values()))
    percentiles = table("", *UNITS, numbers=len(UNITS), title="Length of a document to train on")
    names = ("mean", *("median" if p == 50 else f"{p}% are shorter" for p in PERCENTILES), "longest")
    columns = [train.of(unit) for unit in UNITS]
    numbers = [(values.mean(), *np.percentile(values, PERCENTILES), values.max()) for values in columns]
    for name, row in zip(names, zip(*numbers)):
        percentiles.add_row(name, *(f"{number:,.0f}" for number in row))
    console.print(totals, percentiles)
    if tokenizer is None:
        note = (
            f"Tokens are estimated, {ESTIMATED_BYTES_PER_TOKEN} bytes each: the tokenizer that training would use is "
            "not there yet. Name one with --tokenizer FOLDER to count them."
        )
    else:
        name = f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens, {tokenizer.fingerprint[:12]}"
        note = f"Tokens are counted by this tokenizer: {name}."
    console.print(note, style="dim", highlight=False)


def _bytes_per_token(lengths: DocumentLengths) -> float:
    return lengths.of("bytes").sum() / max(1, lengths.of("tokens").sum())
