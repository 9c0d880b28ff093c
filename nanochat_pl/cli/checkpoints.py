"""`python -m nanochat_pl checkpoints list|export`: what a run has kept, and models for use elsewhere."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

app = typer.Typer(help="What a run has kept; models for use elsewhere.", no_args_is_help=True)


class Target(StrEnum):
    """What to export to."""

    hf = "hf"


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


@app.command("list")
def list_checkpoints(
    run: Annotated[Path, typer.Argument(help="A run (runs/NAME) or a stage of it (runs/NAME/base).")],
) -> None:
    """List what a run can be resumed from and its models: steps, sizes, validation bits per byte."""
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    table = Table("file", box=None, padding=(0, 2, 0, 0))
    for column in ("step", "size", "val bpb"):
        table.add_column(column, justify="right")
    for kept in _kept_in(run):
        step = "" if kept.step is None else f"{kept.step:.0f}"
        val_bpb = "" if kept.val_bpb is None else f"{kept.val_bpb:.4f}"
        table.add_row(str(kept.path), step, decimal(kept.path.stat().st_size), val_bpb)
    Console().print(table, soft_wrap=True)


class _Kept(NamedTuple):
    path: Path
    step: float | None
    val_bpb: float | None


def _kept_in(run: Path) -> list[_Kept]:
    """Checkpoints and models of all stages, in the order of training.

    Raises:
        UserError: there are none, or a model is damaged.
    """
    from nanochat_pl.checkpoint.header import STAGES, read_facts
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.core.paths import runs_root
    from nanochat_pl.core.run_folder import RunFolder

    where = run if run.exists() else runs_root() / run
    kept = []
    for folder in map(RunFolder, [*(where / stage for stage in reversed(STAGES)), where]):
        val_bpb = dict(folder.read_metrics().get("val/bpb", []))
        for path in sorted(folder.checkpoints.glob("step-*.ckpt")):
            if not (digits := path.stem.removeprefix("step-")).isdigit():  # not one of ours
                continue
            step = int(digits)
            kept.append(_Kept(path, step, val_bpb.get(step)))
        if (folder.model / "model.safetensors").is_file():
            facts = read_facts(folder.model)
            kept.append(_Kept(folder.model / "model.safetensors", facts.get("step"), facts.get("val_bpb")))
    if not kept:
        raise UserError(f"There are no checkpoints in {where}. Name a run such as runs/tiny, or a stage of it.")
    return kept
