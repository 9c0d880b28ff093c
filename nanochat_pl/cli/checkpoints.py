"""`python -m nanochat_pl checkpoints COMMAND`: what a run has kept, and models for use elsewhere."""

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="What a run has kept; models for use elsewhere.", no_args_is_help=True)

RUN = typer.Argument(help="A run (runs/NAME) or a stage of it (runs/NAME/base).")
SAVED = "A run or a stage of it (its newest checkpoint), either with @STEP, a .ckpt file, or a model folder."
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


class Target(StrEnum):
    """What to export to."""

    hf = "hf"


class Origin(StrEnum):
    """What to import from."""

    nanochat = "nanochat"
    nanogpt = "nanogpt"


PICKLED_TOKENIZER = """\
nanochat keeps its tokenizer as a pickle (tokenizer/tokenizer.pkl), which could run any program and is not read here. \
If it is yours, write it once as one of ours, and name that with --tokenizer my_tokenizer: python -c "import pickle; \
from nanochat_pl.tokenizers.openai import tokenizer_of; \
tokenizer_of(pickle.load(open('tokenizer.pkl', 'rb'))).save('my_tokenizer')\""""


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(help="A run (runs/NAME), a stage of it, either with @STEP, or a model folder.")
    ],
    to: Annotated[Target, typer.Option(help="hf: a Hugging Face folder, for transformers and what builds on it.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write: new, empty, or an earlier export.", show_default=False)
    ] = None,
) -> None:
    """Write a model in another program's format."""
    from nanochat_pl.checkpoint.hf_export import export_to_hf
    from nanochat_pl.checkpoint.named_model import find_named_model

    named = find_named_model(model)
    if out is None:
        is_folder = named.path.is_dir()  # whose name may hold points, such as m,lr=0.1
        beside, name = (named.path, named.path.name) if is_folder else (named.path.parent, named.path.stem)
        out = beside.with_name(f"{name}-hf")
    written = export_to_hf(named.load(), named.name, out)
    trust = "trust_remote_code=True" if written.modeling_file else ""
    print(f"Wrote {out}: {written.name}. For example:\n")
    print("  from transformers import AutoModelForCausalLM, AutoTokenizer")
    arguments = ", ".join(filter(None, (repr(str(out)), trust)))
    print(f"  model = AutoModelForCausalLM.from_pretrained({arguments})")
    print(f"  tokenizer = AutoTokenizer.from_pretrained({arguments})")


@app.command("import")
def import_checkpoint(
    path: Annotated[
        Path,
        typer.Argument(help="nanoGPT's ckpt.pt, or nanochat's model_STEP.pt beside its meta_STEP.json; or a folder."),
    ],
    origin: Annotated[Origin, typer.Option("--from", help="The program that wrote it.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The model folder to write: a new one.", show_default="runs/NAME/STAGE/model"),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="The folder of its tokenizer.", show_default="of nanoGPT: GPT-2's, which is fetched once"),
    ] = None,
) -> None:
    """Make a checkpoint of nanoGPT or nanochat one of our model folders, to be trained on, evaluated and talked to."""
    from nanochat_pl.checkpoint.peers import read_nanochat, read_nanogpt
    from nanochat_pl.cli.tokenizer import load_from
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.core.paths import runs_root
    from nanochat_pl.tokenizers.openai import openai_tokenizer

    read = read_nanogpt if origin is Origin.nanogpt else read_nanochat
    if tokenizer is None and origin is Origin.nanochat:
        raise UserError(PICKLED_TOKENIZER)
    model = read(path)
    if out is None:
        name = path.resolve().name if path.is_dir() else path.resolve().parent.name
        out = runs_root() / f"{origin.value}-{name}" / model.stage / "model"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already. Name another folder with --out.")
    model.save(out, load_from(tokenizer) if tokenizer else openai_tokenizer("gpt2"), str(path))
    print(f"Wrote {out}. For example:\n")
    print(f"  {shlex.join(['python', '-m', 'nanochat_pl', 'sample', str(out)])}")
    print(f"  {shlex.join(['python', 'train.py', f'stage.init_from={out}'])}   (train it further)")


@app.command("list")
def list_checkpoints(run: Annotated[str, RUN], as_json: Json = False) -> None:
    """List what a run can be resumed from and its models: steps, sizes, validation bits per byte."""
    from nanochat_pl.checkpoint.kept import kept_in
    from nanochat_pl.checkpoint.named_model import find_stages
    from nanochat_pl.cli.checkpoint_tables import print_kept

    kept = [one for stage in find_stages(run) for one in kept_in(stage)]
    if as_json:
        total = sum(one.size_bytes for one in kept)
        print(json.dumps({"kept": [one.as_dict() for one in kept], "total_bytes": total}, indent=2))
    else:
        print_kept(kept)


@app.command()
def inspect(saved: Annotated[str, typer.Argument(help=SAVED)], as_json: Json = False) -> None:
    """Show what is in a checkpoint: step, parameters, optimizer's state, data's cursor, configuration, versions."""
    from nanochat_pl.checkpoint.contents import read_contents
    from nanochat_pl.checkpoint.named_model import find_saved
    from nanochat_pl.cli.checkpoint_tables import description, print_description

    described = description(read_contents(find_saved(saved)))
    if as_json:
        print(json.dumps(described, indent=2))
    else:
        print_description(described)


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help=SAVED)],
    second: Annotated[str, typer.Argument(help="What to compare it with, named likewise.")],
    count: Annotated[int, typer.Option("-n", min=0, help="Show so many of the weights that changed most.")] = 5,
) -> None:
    """Compare two checkpoints or models: configurations, shapes, and how far the weights have moved, by role."""
    from nanochat_pl.checkpoint.contents import read_contents
    from nanochat_pl.checkpoint.difference import difference
    from nanochat_pl.checkpoint.named_model import find_saved
    from nanochat_pl.cli.checkpoint_tables import print_difference

    before, after = (read_contents(find_saved(name)) for name in (first, second))
    print_difference(before, after, difference(before, after), count)


@app.command()
def verify(
    saved: Annotated[str, typer.Argument(help="A run (all of it), a stage of it, either with @STEP, or a file.")],
    as_json: Json = False,
) -> None:
    """Read all that a run has kept to its end: checksums, finite values, fit for its model. Exit code 1 on faults."""
    from nanochat_pl.checkpoint import kept
    from nanochat_pl.cli.checkpoint_tables import print_verdicts

    verdicts = kept.verify(saved)
    newest_sound = kept.newest_sound_among(verdicts)
    if as_json:
        faults = {str(verdict.path): verdict.fault for verdict in verdicts}
        print(json.dumps({"faults": faults, "newest_sound": newest_sound}, indent=2))
    else:
        print_verdicts(verdicts, newest_sound)
    if any(verdict.fault for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def prune(
    run: Annotated[str, RUN],
    keep_last: Annotated[int, typer.Option(min=1, help="Keep so many of the newest sound ones.")] = 1,
    keep_best: Annotated[int, typer.Option(min=0, help="And so many with the lowest bits per byte.")] = 0,
    keep_every_n_steps: Annotated[
        int | None, typer.Option(min=1, help="And those whose step is a multiple of it.", show_default="none")
    ] = None,
    budget_gigabytes: Annotated[
        float | None,
        typer.Option(min=0, help="What those of a stage may take together.", show_default="no limit"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Remove checkpoints that a rule does not keep; of each stage its newest sound one always stays.

    The portable model in model/ is no checkpoint and is left alone.
    """
    from contextlib import ExitStack

    from nanochat_pl.checkpoint.kept import plan_removal
    from nanochat_pl.checkpoint.named_model import find_stages
    from nanochat_pl.checkpoint.saved import Keep
    from nanochat_pl.cli.checkpoint_tables import print_removals
    from nanochat_pl.core.errors import UserError

    budget_bytes = None if budget_gigabytes is None else int(budget_gigabytes * 1e9)
    keep = Keep(keep_last, keep_best, keep_every_n_steps, budget_bytes)
    with ExitStack() as held:
        stages = find_stages(run)
        for stage in stages:
            try:
                held.enter_context(stage.locked())
            except UserError as error:
                raise UserError(
                    f"Nothing was removed: {stage.path} is in training. Wait for it or stop it; what a training keeps "
                    "is set by callbacks.checkpoints.keep_last, keep_best, keep_every_n_steps and budget_gigabytes."
                ) from error
        removals = [plan_removal(stage, keep) for stage in stages]
        print_removals(removals)
        if not any(removal.goes for removal in removals):
            return
        if not yes and not sys.stdin.isatty():
            raise UserError("Nothing was removed: there is no terminal to ask at. Say --yes to remove these.")
        if not yes and not typer.confirm("Remove them?"):
            print("Nothing was removed.")
            return
        for removal in removals:
            removal.carry_out()
        print("Removed.")
