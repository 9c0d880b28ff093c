"""`python -m nanochat_pl doctor [TOPIC] [RUN] [KEY=VALUE ...]`: what is wrong, and what to do."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nanochat_pl.config.specs import Specs
    from nanochat_pl.core.run_folder import RunFolder
    from nanochat_pl.diagnosis.diagnosis import Diagnosis

TOPICS = ("gpu", "oom", "loss", "distributed", "stuck", "checkpoint", "data")
OF_MACHINES = ("gpu", "distributed")
OF_COMMANDS = ("gpu", "oom", "distributed", "data")
"""Those that can look at what a command would train, too."""


def doctor(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TOPIC] [RUN] [KEY=VALUE]...",
            help=f"TOPIC: {', '.join(TOPICS)}; the default is all that apply. RUN: runs/NAME, NAME, or a stage of it; "
            "the default is the newest. KEY=VALUE, in place of RUN: of a command that is yet to train "
            "(gpu, oom, distributed, data).",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find out what is wrong: out of memory, a loss that does not fall, a GPU that is not used, a hang, damaged files.

    Exit code 0: nothing is wrong; 1: something is; 2: a mistake in the command; 3: the machine's fault.
    """
    from nanochat_pl.cli.screen import show_json
    from nanochat_pl.core.place import place

    topic, name, overrides = _understood(words or [])
    diagnoses = _diagnoses(topic, name, overrides)
    here = place()
    if here is None or here.rank == 0:
        if as_json:
            show_json({"sound": all(one.sound for one in diagnoses), "topics": [one.as_dict() for one in diagnoses]})
        else:
            _print(diagnoses)
    if not all(diagnosis.sound for diagnosis in diagnoses):
        raise typer.Exit(1)


def _understood(words: list[str]) -> tuple[str | None, str | None, list[str]]:
    """(topic, run, overrides); a run's name may have = in it."""
    from nanochat_pl.core.errors import UserError, nearest
    from nanochat_pl.core.paths import runs_root

    overrides = [
        word
        for word in words
        if re.match(r"[+~]{0,2}[\w./@]+=", word) and not (Path(word).exists() or (runs_root() / word).exists())
    ]
    names = [word for word in words if word not in overrides]
    topic = names.pop(0) if names and names[0] in TOPICS else None
    if topic and len(names) > 1:
        raise UserError(f"The doctor looks at one run at a time: name '{names[0]}' or '{names[1]}'.")
    if len(names) > 1:
        hint = nearest(names[0], TOPICS)
        raise UserError(f"'{names[0]}' is no topic of the doctor{hint} Topics: {', '.join(TOPICS)}.")
    if names and overrides:
        raise UserError(f"Give either a run ('{names[0]}') or what a command would train ('{overrides[0]}'), not both.")
    if overrides and topic not in (None, *OF_COMMANDS):
        raise UserError(f"doctor {topic} looks at a run, not at options such as '{overrides[0]}': name a run.")
    return topic, names[0] if names else None, overrides


def _diagnoses(topic: str | None, name: str | None, overrides: list[str]) -> "list[Diagnosis]":
    """Of the topic, or of all that apply."""
    from nanochat_pl.cli.data_source import composed
    from nanochat_pl.core.errors import UserError, nearest
    from nanochat_pl.diagnosis.subject import find_run

    asked = (topic,) if topic else ()
    if overrides:
        specs = composed(overrides)
        return [_diagnosis(one, None, specs, overrides, thorough=bool(asked)) for one in asked or OF_COMMANDS]
    run = None
    if name is not None or topic not in OF_MACHINES:
        try:
            run = find_run(name)
        except UserError as error:
            if topic is None and name is not None and (hint := nearest(name, TOPICS)) != ".":
                raise UserError(f"'{name}' is no topic of the doctor{hint} {error}") from error
            if topic is not None or name is not None:
                raise
    topics = asked or (TOPICS if run else OF_MACHINES)  # where there is no run yet
    return [_diagnosis(one, run, None, [], thorough=bool(asked)) for one in topics]


def _diagnosis(
    topic: str, run: "RunFolder | None", specs: "Specs | None", overrides: list[str], thorough: bool
) -> "Diagnosis":
    """Of a run, else of what a command would train, else of this machine."""
    from nanochat_pl.diagnosis import checkpoint, data, distributed, gpu, loss, oom, stuck

    if topic == "gpu":
        return gpu.diagnose(specs.hw if specs else None)
    if topic == "distributed":
        devices = distributed.devices_of(run) if run else specs.hw.devices if specs else None
        return distributed.diagnose(devices, measuring=thorough)
    if run is None:
        assert specs is not None
        if topic == "data":
            return data.diagnose(specs.data, "the command's data", thorough=thorough)
        return oom.diagnose_plan(specs.plan(specs.planned_vocab_size(), specs.hw.assume()), specs.model, overrides)
    if topic == "checkpoint":
        return checkpoint.diagnose(run, repair=thorough)
    if topic == "data":
        return data.diagnose_run(run, lambda: _specs_of(run).data, thorough=thorough)
    if topic == "oom":
        return oom.diagnose(run, lambda: _specs_of(run).model)
    return loss.diagnose(run) if topic == "loss" else stuck.diagnose(run)


def _specs_of(run: "RunFolder") -> "Specs":
    from nanochat_pl.config.resume import load_config
    from nanochat_pl.config.specs import Specs
    from nanochat_pl.core.errors import UserError

    if not run.config.exists():
        raise UserError(f"{run.path} has no config.yaml: nothing was trained there yet.")
    return Specs.of(load_config(run))


def _print(diagnoses: "list[Diagnosis]") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    for diagnosis in diagnoses:
        console.print(f"\n[bold]{diagnosis.topic}[/]  [dim]{escape(diagnosis.subject)}[/]", soft_wrap=True)
        for mark, colour, text in diagnosis.lines():
            # A command stays in one line, to be copied.
            said, _, command = text.partition("\n")
            if said:
                row = Table.grid(padding=(0, 1))
                row.add_column(width=4, justify="right")
                row.add_column(overflow="fold")
                row.add_row(f"[{colour}]{mark}[/]", escape(said) if mark else f"[italic]{escape(said)}[/]")
                console.print(row)
            for line in command.splitlines():
                console.print(f"       {line.strip()}", soft_wrap=True, markup=False)
    wrong = [diagnosis.topic for diagnosis in diagnoses if not diagnosis.sound]
    console.print(f"\nSomething is wrong: {', '.join(wrong)}." if wrong else "\nNothing is wrong.")
    sys.stdout.flush()
