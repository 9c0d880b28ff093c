"""`python -m nanochat_pl report NAME`: a run, or with `--sweep` a sweep, on one page."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    name: Annotated[str | None, typer.Argument(help="A run: its name under the runs root, or its folder.")] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(help="In place of a run: the folder of a sweep, or a folder of runs.", metavar="FOLDER"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write; the default is the run's or the sweep's folder.", metavar="FOLDER"),
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0.0, help="Of one device, in any currency; adds what a run's training cost.")
    ] = None,
) -> None:
    """Write report.html and report.md: what was trained on what, curves, evaluations, samples, cost, commands.

    Of a sweep: its jobs, loss against compute, the best learning rate, the spread over seeds.
    """
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.reporting.contents import build_report
    from nanochat_pl.reporting.page import write_report, write_sweep_report
    from nanochat_pl.reporting.records import load_run
    from nanochat_pl.reporting.sweep_contents import build_sweep_report
    from nanochat_pl.reporting.sweep_records import load_sweep

    if sweep is not None and name is None:
        if price_per_hour is not None:
            raise UserError("--price-per-hour is for the report of a run; leave it out with --sweep.")
        jobs = load_sweep(sweep)
        pages = write_sweep_report(build_sweep_report(jobs), out or jobs.path)
    elif name is not None and sweep is None:
        run = load_run(name)
        pages = write_report(build_report(run, price_per_hour), out or run.path, run.path)
    else:
        raise UserError("Give either the name of a run or --sweep FOLDER: `report NAME`, `report --sweep FOLDER`.")
    for path in pages:
        print(path)
