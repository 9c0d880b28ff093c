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
    from nanochat_pl.planning.plan import measured_matmul_flops_per_second

    arguments = overrides or []
    with composing(arguments):
        specs = Specs.of(compose(arguments))
    hardware = specs.hw.detect()
    planned = specs.plan(specs.planned_vocab_size(), hardware)
    speed = measured_matmul_flops_per_second(hardware.accelerator, hardware.compute_dtype, planned.model.n_embd)
    print(planned.text(speed))
