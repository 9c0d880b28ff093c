"""docs/from-*.md: every command on the right is one, and every option there is one of a training."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from nanochat_pl.cli import app
from nanochat_pl.config.compose import compose
from nanochat_pl.config.construct import construct
from nanochat_pl.config.explain import composing
from nanochat_pl.config.specs import Specs
from nanochat_pl.core.errors import UserError
from serve import read_options
from tests.forks import REPOSITORY

PAGES = sorted((REPOSITORY / "docs").glob("from-*.md"))
OPTION = re.compile(r"\+?[a-z][\w./]*=\S+")


def rows(page: Path) -> list[tuple[str, str]]:
    """(theirs, ours) of every row of a page's tables."""
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]) for line in lines]
    assert all(len(row) == 2 for row in cells), cells
    return [(theirs, ours) for theirs, ours in cells if set(theirs) != {"-"} and ours != "here"]


RIGHT = [(page.stem, span) for page in PAGES for _, ours in rows(page) for span in re.findall(r"`([^`]+)`", ours)]
COMMANDS = [(page, span) for page, span in RIGHT if span.startswith(("python ", "torchrun "))]
OPTIONS = [(page, span) for page, span in RIGHT if all(map(OPTION.fullmatch, shlex.split(span)))]


def test_there_is_something_to_check() -> None:
    assert len(PAGES) >= 2 and len(COMMANDS) > 60 and len(OPTIONS) > 60
    for page in PAGES:
        assert all(theirs and ours for theirs, ours in rows(page))


@pytest.mark.parametrize(
    ("page", "command"),
    [
        pytest.param(*one, marks=[pytest.mark.slow] if "train.py" in one[1] else [])  # composed and planned
        for one in sorted(set(COMMANDS))
    ],
)
def test_a_command_is_one(page: str, command: str) -> None:
    words = shlex.split(command)
    if "train.py" in words:
        composes(words[words.index("train.py") + 1 :])
    elif words[1] == "serve.py":
        assert read_options(words[2:])["host"]
    elif words[1:3] == ["-m", "nanochat_pl"]:
        parses(words[3:])
    else:
        assert (REPOSITORY / words[1]).is_file()


def test_options_are_those_of_a_training() -> None:
    batches: list[tuple[dict[str, str], list[str]]] = []  # as many as agree are composed at once
    for _, span in OPTIONS:
        chosen = dict(option.split("=", 1) for option in shlex.split(span))
        groups = {key: value for key, value in chosen.items() if "." not in key}
        fits = (
            batch
            for batch in batches
            if {key: value for key, value in batch[0].items() if "." not in key} == groups
            and all(batch[0].get(key, value) == value for key, value in chosen.items())
        )
        values, spans = next(fits, ({}, []))
        if not spans:
            batches.append((values, spans))
        values.update(chosen)
        spans.append(span)
    assert sum(len(spans) for _, spans in batches) == len(OPTIONS)
    for values, spans in batches:
        try:
            composes([f"{key}={value}" for key, value in values.items()])
        except UserError:  # together they may contradict each other
            for span in spans:
                composes(shlex.split(span))


def composes(arguments: list[str]) -> None:
    """A training's arguments; of a sweep the first job's."""
    is_sweep = "-m" in arguments
    options = [argument for argument in arguments if not argument.startswith("-")]
    if "--cfg" in arguments:
        options.remove("job")
    if is_sweep:
        options = [option.split(",")[0] for option in options if not option.startswith("hydra/launcher")]
    with composing(options):
        config = compose(options)
        construct(config.stage, "stage")
        construct(config.trainer, "trainer")
        specs = Specs.of(config)
    size = getattr(specs.tokenizer, "vocab_size", None)
    if config.stage.name == "base" and size and specs.hw.nodes in (None, 1):
        assert specs.plan(size, specs.hw.assume()).horizon.steps > 0


def parses(words: list[str]) -> None:
    """What stands behind `python -m nanochat_pl`: parsed, and not run."""
    command = typer.main.get_command(app)
    context = command.make_context("nanochat_pl", words)
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        if not rest and not hasattr(command, "commands"):
            return  # a command's name alone
        context = command.make_context(name, rest, parent=context)
    overrides = [argument for argument in context.params.get("overrides") or [] if "=" in argument]
    if overrides:
        composes(overrides)
