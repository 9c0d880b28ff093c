"""`python -m nanochat_pl report NAME`: a run on one page."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    name: Annotated[str, typer.Argument(help="A run: its name under the runs root, or its folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write; the default is the run's folder.", metavar="FOLDER")
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0.0, help="Of one device, in any currency; adds what the training cost.")
    ] = None,
) -> None:
    """Write report.html and report.md: what was trained on what, curves, evaluations, samples, cost, commands."""
    from nanochat_pl.reporting.contents import build_report
    from nanochat_pl.reporting.page import write_report
    from nanochat_pl.reporting.records import load_run

    run = load_run(name)
    for path in write_report(build_report(run, price_per_hour), out or run.path, run.path):
        print(path)
