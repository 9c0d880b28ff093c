"""A report as HTML and as Markdown; whatever a model or a user wrote is escaped."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat_pl.core.paths import write_text
from nanochat_pl.reporting.contents import Report
from nanochat_pl.reporting.pictures import FilePicture, flat_pictures
from nanochat_pl.reporting.sweep_contents import SweepReport

_ASSETS = Path(__file__).parent / "assets"
_CONTROLS = {code: 0xFFFD for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0xFFFD}


def write_report(report: Report, folder: Path, run_folder: Path) -> tuple[Path, Path]:
    """Write report.html and report.md into `folder`.

    Args:
        run_folder: with the stages' folders, whose pictures the Markdown shows, and what `video --flat` has drawn.
    """
    flat = flat_pictures(run_folder)
    return _written(folder, html_of(report, flat), markdown_of(report, os.path.relpath(run_folder, folder), flat))


def write_sweep_report(report: SweepReport, folder: Path) -> tuple[Path, Path]:
    """The same for a sweep; the Markdown has no pictures."""
    return _written(folder, _rendered("sweep.html", report), _rendered("sweep.md", report))


def html_of(report: Report, flat: Sequence[FilePicture] = ()) -> str:
    """One page that asks for nothing outside of it."""
    return _rendered("report.html", report, flat=flat)


def markdown_of(report: Report, run_folder: str, flat: Sequence[FilePicture] = ()) -> str:
    """The same in Markdown; the curves are the pictures in `run_folder`, a relative path."""
    prefix = "" if run_folder == "." else f"{run_folder}/"
    return _rendered("report.md", report, prefix=prefix, flat=flat)


def _written(folder: Path, html: str, markdown: str) -> tuple[Path, Path]:
    pages = folder / "report.html", folder / "report.md"
    for path, text in zip(pages, (html, markdown)):
        write_text(path, text)
    return pages


def _rendered(name: str, report: Report | SweepReport, **more: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": in_line, "fenced": fenced}
    css = (_ASSETS / "report.css").read_text(encoding="utf-8")
    text = environment.get_template(name).render(report=report, css=css, **more)
    return printable(text)


def printable(text: str) -> str:
    """Without characters that steer a terminal or are none of UTF-8."""
    return text.translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")


def in_line(text: str) -> str:
    """For a place in a line of Markdown: nothing in it is markup."""
    text = re.sub(r"[\\`*\[|#~]|\b_|_\b", r"\\\g<0>", text).replace("<", "&lt;")
    return " ".join(text.split())


def fenced(text: str, language: str = "text") -> str:
    """As a block of code, behind a fence that the text cannot end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
