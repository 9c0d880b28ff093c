"""`python -m nanochat_pl plan [key=value ...]`: what a training would take, without starting it."""

from typing import Annotated

import typer


def plan(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="As for train.py: recipe=d12 hw=cpu model.depth=6 stage=sft ...", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Print the plan of a training: model, tokens, steps, accumulation, memory, expected time."""
    from nanochat_pl.config.compose import compose, run_name
    from nanochat_pl.config.construct import construct
    from nanochat_pl.config.explain import composing
    from nanochat_pl.config.specs import Specs
    from nanochat_pl.core.run_folder import RunFolder

    arguments = overrides or []
    with composing(arguments):
        config = compose(arguments)
        specs, stage = Specs.of(config), construct(config.stage, "stage")
    parent = stage.find_parent(RunFolder.of(run_name(config, arguments), stage.name), config.recipe_name, arguments)
    if parent:
        specs.check_same_model(parent, arguments)
    vocab_size = parent.tokenizer().vocab_size if parent else specs.planned_vocab_size()
    print(specs.plan(vocab_size, specs.hw.detect(), parent).text())
