"""`python -m nanochat_pl eval MODEL... --suite NAME`: how good models are, in figures with their standard errors."""

import dataclasses
import functools
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanochat_pl.cli.sample import Device

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanochat_pl.checkpoint.model_folder import LoadedModel
    from nanochat_pl.checkpoint.named_model import NamedModel
    from nanochat_pl.core.run_folder import RunFolder
    from nanochat_pl.core.types import StepBatch
    from nanochat_pl.data.sources import DocumentSource
    from nanochat_pl.evals.scores import SuiteScore
    from nanochat_pl.evals.suites import Suite
    from nanochat_pl.tokenizers.base import Tokenizer

TOKENS_AT_ONCE = 4096
"""Of the rows that bits per byte are measured on."""


def evaluate(
    model: Annotated[
        list[str],
        typer.Argument(
            help="Runs (runs/NAME), stages of them, either with @STEP, model folders, or hf:NAME.", metavar="MODEL..."
        ),
    ],
    suite: Annotated[
        list[str],
        typer.Option(
            help="bpb: bits per byte of the run's held-out data; core: CORE, for base models; chat: ChatCORE; tiny: "
            "the tiny world's questions; tasks=NAME,NAME...: these tasks. Can be given several times.",
            metavar="SUITE",
        ),
    ],
    max_per_task: Annotated[
        int | None, typer.Option(min=1, help="Ask so many questions of each task at most.", show_default="all")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="The folder of CORE's tasks.", show_default="downloaded once")
    ] = None,
    tasks_path: Annotated[
        Path | None, typer.Option(help="A folder with the tasks' data sets, laid out as on the hub.")
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            help="Of bpb: in rows of so many tokens, also more than the model was trained on.",
            metavar="N,N...",
            show_default="the trained context",
        ),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="A picture of bpb over --lengths to write.", metavar="FILE.png")
    ] = None,
    device: Annotated[
        Device | None, typer.Option(help="Where to compute.", show_default="the best that is here")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A JSON file to write the results to.", metavar="FILE.json")] = None,
) -> None:
    """Evaluate models: tables, and records in their runs' evaluations.json and summary.json.

    The same command gives the same figures: questions are a fixed sample, answers are greedy.

    What was measured on fewer questions than the recorded result of the same step is shown, but not recorded.

    One process computes. In a training (callbacks.evaluate.suites), all of its processes share the questions.
    """
    from nanochat_pl.checkpoint.named_model import find_named_model
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.core.hardware import HardwareSpec
    from nanochat_pl.core.paths import write_text
    from nanochat_pl.evals.suites import build_suites
    from nanochat_pl.reporting.lengths import draw_lengths, print_lengths

    rows = _lengths(lengths) if lengths is not None else []
    if (rows and "bpb" not in suite) or (png is not None and not rows):
        raise UserError(
            "--lengths goes with --suite bpb, and --png with both: --suite bpb --lengths 128,256 --png F.png."
        )
    if png is not None and png.suffix.lower() != ".png":
        raise UserError(f"--png {png} ends with '{png.suffix}'; it must end with .png.")
    suites = build_suites(
        [name for name in suite if name != "bpb"],
        max_per_task=max_per_task,
        bundle=None if bundle is None else str(bundle),
        tasks_path=None if tasks_path is None else str(tasks_path),
    )
    models = [find_named_model(name) for name in model]
    where = HardwareSpec(accelerator=device.value if device else None).detect().accelerator
    for part in suites:
        _prepare(part)
    results = []
    for named in models:
        run, loaded = _run_of(named), named.load(where)
        measured = {f"bpb@{n}": _bits_per_byte(named, run, loaded, n) for n in rows}
        if "bpb" in suite and not rows:
            measured["bpb"] = _bits_per_byte(named, run, loaded, None)
        measured |= {part.name: functools.partial(_answered, part, loaded) for part in suites}
        results.append(_measure(named, run, loaded, measured, {"max_per_task": max_per_task, "device": where}))
    if rows:
        found = {
            result["model"]: {n: result["suites"][f"bpb@{n}"]["value"] for n in rows if f"bpb@{n}" in result["suites"]}
            for result in results
        }
        print_lengths(found, rows)
        if png is not None:
            draw_lengths(found, png)
            print(f"Wrote {png}.")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, json.dumps(results[0] if len(results) == 1 else results, indent=2) + "\n")
        print(f"Wrote {out}.")


def _lengths(text: str) -> list[int]:
    from nanochat_pl.core.errors import UserError

    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--lengths {text!r} must be numbers of tokens, such as 128,256,512.")
    return sorted({int(part) for part in parts})


def _answered(suite: "Suite", loaded: "LoadedModel", watch: Any) -> "SuiteScore":
    return suite.score(list(suite.count(loaded.model, loaded.tokenizer, watch)))


def _measure(
    named: "NamedModel",
    run: "RunFolder | None",
    loaded: "LoadedModel",
    measured: "dict[str, Callable[..., SuiteScore]]",
    settings: dict[str, Any],
) -> dict[str, Any]:
    """What `--out` holds of one model; printed and recorded too.

    A length that the model refuses is told, and left out.

    Raises:
        UserError: it refuses all of them, or another suite cannot be measured.
    """
    from rich.console import Console

    from nanochat_pl.cli.data_tables import bar_of_share
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.core.invocation import invocation

    step, results, refused = int(loaded.facts.get("step", 0)), {}, None
    facts = invocation() | {"command": ["-m", "nanochat_pl", *sys.argv[1:]]}
    for name, measure in measured.items():
        started = time.perf_counter()
        try:
            with bar_of_share(name) as (bar, task):
                score = measure(lambda label, share, task=task: bar.update(task, description=label, completed=share))
        except UserError as error:
            if not name.startswith("bpb@"):
                raise
            refused = error
            print(f"{name} of {named.name} is left out. {error}\n", file=sys.stderr)
            continue
        seconds = time.perf_counter() - started
        results[name] = score.as_dict() | settings | {"seconds": round(seconds, 2)}
        _print(Console(), score, named.name, step, seconds)
        if run is not None and not run.record_evaluation(name, step, results[name] | facts):
            print(f"{run.evaluations} has a result of {name} at step {step:,} on more questions, and keeps it.\n")
    if refused is not None and not results:
        raise refused
    return {"model": named.name, "step": step, "suites": results}


def _run_of(named: "NamedModel") -> "RunFolder | None":
    """The run that made the model; None for a model folder elsewhere."""
    from nanochat_pl.core.run_folder import RunFolder

    run = RunFolder(named.path.parent if named.path.is_dir() else named.path.parent.parent)
    is_own = named.path == run.model or named.path.parent == run.checkpoints
    return run if is_own and run.config.exists() else None


def _prepare(suite: "Suite") -> None:
    from nanochat_pl.core.errors import MachineError

    try:
        suite.prepare()
    except MachineError as error:  # the way out of it by this command's own name
        raise MachineError(str(error).replace("path=FOLDER", "--tasks-path FOLDER")) from error


def _bits_per_byte(
    named: "NamedModel", run: "RunFolder | None", loaded: "LoadedModel", length: int | None
) -> "Callable[..., SuiteScore]":
    """What measures bits per byte on the data that the model's run holds out.

    Args:
        length: tokens of a row; None: the trained context.

    Raises:
        UserError: the model's run is not there, or was not trained on text or conversations.
    """
    import torch

    from nanochat_pl.core.errors import UserError
    from nanochat_pl.evals.suites import measure_bits_per_byte

    if run is None:
        raise UserError(
            f"{named.name} has no run beside it (config.yaml), which says what data were held out for --suite bpb. "
            "Name the run that made the model, or choose another suite."
        )
    batches = _held_out_batches(run, loaded, length)
    sizes = torch.from_numpy(loaded.tokenizer.token_bytes()).long()
    bos_id = loaded.tokenizer.bos_id if loaded.stage == "sft" else None

    def measure(watch: Any) -> "SuiteScore":
        score = measure_bits_per_byte(loaded.model, sizes, batches, bos_id, watch)
        if length is None:
            return score
        return dataclasses.replace(score, suite=f"bpb@{length}", metric=f"{score.metric} in rows of {length:,} tokens")

    return measure


def _held_out_batches(run: "RunFolder", loaded: "LoadedModel", length: int | None) -> "list[StepBatch]":
    from nanochat_pl.config.resume import load_config
    from nanochat_pl.config.specs import Specs
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.data.specs import DataSpec

    specs = Specs.of(load_config(run))
    if not isinstance(specs.data, DataSpec):
        raise UserError(
            f"{run.path} learned from rewards, not from text: there are no bits per byte of its data. Evaluate an "
            "earlier stage of the run, or choose another suite."
        )
    sources = specs.data.build_sources()
    try:
        if length is not None:
            _check_length(sources[1], loaded.tokenizer, length, run)
        tokens = length or loaded.model.config.sequence_len
        rows = max(1, TOKENS_AT_ONCE // tokens)
        data = specs.data.build(
            loaded.tokenizer, sequence_len=tokens, rows_per_step=rows, micro_batch_rows=rows, seed=specs.seed,
            sources=sources,
        )  # fmt: skip
        return list(data.val_dataloader())
    finally:
        for source in sources:
            source.close()


def _check_length(held_out: "DocumentSource", tokenizer: "Tokenizer", length: int, run: "RunFolder") -> None:
    """Raise `UserError` where all that is held out does not fill a row."""
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.data.sources import read_documents

    tokens = 0
    for document in read_documents(held_out):
        tokens += 1 + len(held_out.encode(tokenizer, [document], num_threads=1)[0])  # BOS, and what follows
        if tokens > length:
            return
    raise UserError(
        f"--lengths asks for rows of {length:,} tokens, but all of the text that {run.path} holds out has {tokens:,}, "
        f"so that its longest row has {tokens - 1:,}. Give lengths up to that."
    )


def _print(console: Any, score: "SuiteScore", name: str, step: int, seconds: float) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    def figure(value: float, error: float) -> str:
        return f"{value:.4f} ± {error:.4f}"

    console.print(f"{score.suite} of {escape(name)}, step {step:,} ({seconds:.1f} s)", highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("task", overflow="fold")
    is_centered = any(task.baseline for task in score.tasks)
    for column in ("questions", "accuracy", *(["centered"] if is_centered else [])):
        table.add_column(column, justify="right")
    for task in score.tasks:
        centered = [figure(task.centered, task.centered_standard_error)] if is_centered else []
        table.add_row(task.label, f"{task.count:,}", figure(task.accuracy, task.standard_error), *centered)
    if score.tasks:
        console.print(table)
    console.print(f"[bold]{score.metric}: {figure(score.value, score.standard_error)}[/]\n", highlight=False)
