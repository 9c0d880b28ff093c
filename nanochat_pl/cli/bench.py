"""`python -m nanochat_pl bench [key=value ...]`: how fast a training is, and where its time goes."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from nanochat_pl.callbacks.bench import Measured


def bench(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="As for train.py: recipe=d12 hw=h100x1 model.depth=6 stage=sft ...", metavar="KEY=VALUE"),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps that are measured.")] = 10,
    warmup: Annotated[int, typer.Option(min=1, help="Steps before them, which are not.")] = 5,
    traced: Annotated[int, typer.Option(min=1, help="Steps behind them, which torch.profiler traces.")] = 3,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Random tokens in place of the data, which need not be there.")
    ] = False,
    operators: Annotated[int, typer.Option(min=1, help="Rows of the table of operators.")] = 15,
) -> None:
    """Train a few steps on one device: tokens per second, MFU, the time by phase and by operator, and a trace.

    A step is an optimizer step with all its micro-batches; horizon.total_batch_tokens= makes it shorter.
    """
    import sys

    from rich.console import Console

    from nanochat_pl.training.bench import run_bench

    plan, measured, trace = run_bench(overrides or [], warmup, steps, traced, synthetic)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(plan.text().splitlines()[0], highlight=False)
    console.print(_speed(measured), _phases(measured), _operators(measured, operators))
    console.print(f"Trace: {trace} (open it in https://ui.perfetto.dev or chrome://tracing)", soft_wrap=True)


def _speed(measured: "Measured") -> "Table":
    from rich.table import Table

    table = Table(title="Speed", title_justify="left")
    for column in ("step", "tokens/s", "TFLOP/s", "MFU", "peak memory"):
        table.add_column(column, justify="right")
    table.add_row(
        f"{measured.seconds * 1e3:,.1f} ms",
        f"{measured.tokens / measured.seconds:,.0f}" if measured.tokens else "-",
        f"{measured.flops / 1e12:,.3f}" if measured.flops else "-",
        f"{measured.mfu:.1%}" if measured.mfu else "peak unknown",
        f"{measured.peak_memory_bytes / 2**30:,.2f} GiB",
    )
    return table


def _phases(measured: "Measured") -> "Table":
    from rich.table import Table

    table = Table(title="A step by phase", title_justify="left")
    table.add_column("phase")
    clocks = list(measured.phases)
    for clock in clocks:
        table.add_column(f"{clock} ms", justify="right")
        table.add_column("share", justify="right")
    for phase in measured.phases[clocks[0]]:
        cells = []
        for clock in clocks:
            seconds, whole = measured.phases[clock][phase], sum(measured.phases[clock].values())
            cells += [f"{seconds * 1e3:,.2f}", f"{seconds / whole:.1%}"]
        table.add_row(phase, *cells)
    return table


def _operators(measured: "Measured", rows: int) -> "Table":
    from rich.table import Table

    whole = sum(seconds for _, _, seconds in measured.operators)
    table = Table(title="The longest operators, by their own time", title_justify="left")
    table.add_column("operator", overflow="ellipsis", no_wrap=True, max_width=60)
    for column in ("calls a step", "ms a step", "share"):
        table.add_column(column, justify="right")
    for name, calls, seconds in measured.operators[:rows]:
        table.add_row(name, f"{calls:,.0f}", f"{seconds * 1e3:,.2f}", f"{seconds / whole:.1%}")
    return table
