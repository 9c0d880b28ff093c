"""`python -m nanochat_pl plan [key=value ...]`: what a training would take, without starting it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from nanochat_pl.core.hardware import Hardware
    from nanochat_pl.planning.scaling_table import Row


def plan(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="As for train.py: recipe=d12 hw=h100x8 model.depth=6 stage=sft ...", metavar="KEY=VALUE"),
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(min=0, help="Of one device, in any currency; without it, a GPU's dated price from a table."),
    ] = None,
    largest: Annotated[
        bool, typer.Option("--largest", help="Find the largest depth that fits on the hardware.")
    ] = False,
    depths: Annotated[
        str | None, typer.Option(help="Tokens, FLOPs and time by the scaling laws: 4-48 (every second) or 4,8,12.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="With --depths: a picture of them.")] = None,
) -> None:
    """Print the plan of a training: model, tokens, steps, accumulation, memory, expected time.

    Hardware that is not here is planned for from a table of chips.
    """
    from nanochat_pl.cli.screen import show
    from nanochat_pl.config.compose import compose, run_name
    from nanochat_pl.config.construct import construct
    from nanochat_pl.config.explain import composing
    from nanochat_pl.config.specs import Specs
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.core.run_folder import RunFolder
    from nanochat_pl.planning import scaling_table
    from nanochat_pl.planning.prices import rent, usual_offer

    if png is not None and depths is None:
        raise UserError("--png draws what --depths asks for; give both, for example --depths 4-48 --png laws.png.")
    arguments = overrides or []
    with composing(arguments):
        config = compose(arguments)
        specs, stage = Specs.of(config), construct(config.stage, "stage")
    hardware = specs.hw.assume()
    offer = usual_offer(hardware.chip.name) if price_per_hour is None else None
    if depths is not None:
        laws = specs.model, specs.horizon, specs.planned_vocab_size(), hardware, specs.streaming, specs.optim
        rows = scaling_table.scaling_rows(scaling_table.parse_depths(depths), *laws)
        show(_table(rows, hardware, offer.dollars if offer else price_per_hour))
        if offer:
            print(f"The deepest: {rent(offer, hardware.world_size, rows[-1].seconds)}")
        if png is not None:
            scaling_table.draw_scaling(rows, hardware, png)
            print(f"Wrote {png}.")
        return
    run = RunFolder.of(run_name(config, arguments), stage.name)
    try:
        parent = stage.find_parent(run, config.recipe_name, arguments)
    except UserError:
        if getattr(stage, "init_from", None) is not None:
            raise
        parent = None  # planned as it will be
    if parent:
        specs.check_same_model(parent, arguments)
    vocab_size = parent.tokenizer().vocab_size if parent else specs.planned_vocab_size()
    planned = specs.plan(vocab_size, hardware, parent)
    print(planned.text(price_per_hour))
    if offer:
        print(f"{'rent':>10}  {rent(offer, hardware.world_size, planned.seconds)}")
    if largest:
        depth = scaling_table.largest_depth(specs.model, vocab_size, hardware, specs.streaming, specs.optim)
        found = f"model.depth={depth} fits" if depth else "no model fits"
        print(f"{'largest':>10}  {found}, {specs.model.sequence_len:,} tokens at a time")


def _table(rows: "list[Row]", hardware: "Hardware", price_per_hour: float | None) -> "Table":
    """The state that exceeds a device's memory is marked."""
    from nanochat_pl.cli.screen import table
    from nanochat_pl.core.figures import duration, number, size
    from nanochat_pl.planning.scaling_table import where

    columns = ["depth", "width", "parameters", "tokens", "batch", "steps", "FLOPs", "time", "state"]
    columns += ["cost"] * (price_per_hour is not None)
    title, caption = f"By the scaling laws, on {where(hardware)}", "state: weights, gradients and optimizer a device"
    shown = table(*columns, numbers=len(columns), title=title, caption=caption)
    for row in rows:
        state = size(row.state_bytes)
        cells = [f"{row.depth}", f"{row.width}", number(row.parameters), number(row.tokens), f"{row.batch_tokens:,}"]
        cells += [f"{row.steps:,}", f"{row.flops:.2e}", duration(row.seconds)]
        cells += [f"[red]{state}[/]" if row.state_bytes > hardware.chip.memory_bytes else state]
        if price_per_hour is not None:
            cells.append(f"{price_per_hour * hardware.world_size * row.seconds / 3600:,.2f}")
        shown.add_row(*cells)
    return shown
