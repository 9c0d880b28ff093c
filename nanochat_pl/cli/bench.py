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
    from nanochat_pl.cli.screen import show
    from nanochat_pl.training.bench import run_bench

    plan, measured, trace = run_bench(overrides or [], warmup, steps, traced, synthetic)
    show(plan.text().splitlines()[0], _speed(measured), _phases(measured), _operators(measured, operators))
    show(f"Trace: {trace} (open it in https://ui.perfetto.dev or chrome://tracing)")


def _speed(measured: "Measured") -> "Table":
    from nanochat_pl.cli.screen import table
    from nanochat_pl.core.figures import size

    speed = table("step", "tokens/s", "TFLOP/s", "MFU", "peak memory", numbers=5, title="Speed")
    speed.add_row(
        f"{measured.seconds * 1e3:,.1f} ms",
        f"{measured.tokens / measured.seconds:,.0f}" if measured.tokens else "-",
        f"{measured.flops / 1e12:,.3f}" if measured.flops else "-",
        f"{measured.mfu:.1%}" if measured.mfu else "peak unknown",
        size(measured.peak_memory_bytes),
    )
    return speed


def _phases(measured: "Measured") -> "Table":
    from nanochat_pl.cli.screen import table

    clocks = [column for clock in measured.phases for column in (f"{clock} ms", "share")]
    phases = table("phase", *clocks, numbers=len(clocks), title="A step by phase")
    for phase in next(iter(measured.phases.values())):
        seconds = [(of_clock[phase], sum(of_clock.values())) for of_clock in measured.phases.values()]
        cells = [cell for spent, whole in seconds for cell in (f"{spent * 1e3:,.2f}", f"{spent / whole:.1%}")]
        phases.add_row(phase, *cells)
    return phases


def _operators(measured: "Measured", rows: int) -> "Table":
    from nanochat_pl.cli.screen import table

    whole = sum(seconds for _, _, seconds in measured.operators)
    columns = ("operator", "calls a step", "ms a step", "share")
    longest = table(*columns, numbers=3, title="The longest operators, by their own time")
    for name, calls, seconds in measured.operators[:rows]:
        longest.add_row(name[:60], f"{calls:,.0f}", f"{seconds * 1e3:,.2f}", f"{seconds / whole:.1%}")
    return longest
