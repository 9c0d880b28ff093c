"""`python -m nanochat_pl plan [key=value ...]`: what a training would take, without starting it."""

from typing import Annotated

import typer


def plan(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="As for train.py: recipe=d12 hw=cpu model.depth=6 ...", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Print the plan of a training: model, tokens, steps, accumulation, memory, expected time."""
    from nanochat_pl.config.compose import compose
    from nanochat_pl.config.explain import composing
    from nanochat_pl.config.specs import Specs

    arguments = overrides or []
    with composing(arguments):
        specs = Specs.of(compose(arguments))
    print(specs.plan(specs.planned_vocab_size(), specs.hw.detect()).text())
