"""`python -m nanochat_pl video NAME RUN`: a run's own numbers as a video, a picture or JSON."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanochat_pl.core.errors import EXIT_SIGTERM

if TYPE_CHECKING:
    from nanochat_pl.core.run_folder import RunFolder
    from nanochat_pl.video.scene import Scene


def video(
    name: Annotated[
        str,
        typer.Argument(help="architecture, loss, attention, scaling or pipeline.", metavar="NAME", show_default=False),
    ],
    run: Annotated[
        str,
        typer.Argument(
            help="A run (tiny), a stage of it (tiny/base), a checkpoint (tiny/base@200); for scaling the folder of a "
            "sweep; or the JSON that --data-only wrote.",
            metavar="RUN",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="A file .mp4, .webm, .mov, .gif or .png (its last frame); the default is NAME.mp4."),
    ] = None,
    composition: Annotated[
        str | None, typer.Option(help="Of remotion/, that draws it: one of your own, in place of NAME's.", metavar="ID")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What the model reads (attention).", metavar="TEXT")] = None,
    frame: Annotated[
        int | None, typer.Option(help="Of a .png; negative ones count from the end. The default is the last.")
    ] = None,
    data_only: Annotated[bool, typer.Option("--data-only", help="Write the figures as JSON; --out FILE.json.")] = False,
    flat: Annotated[
        bool, typer.Option("--flat", help="A plain .png by matplotlib, without node (attention, pipeline).")
    ] = False,
) -> None:
    """Draw what a run has recorded or learned: every frame comes from its own numbers."""
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.video.remotion import LAST_FRAME, OPTIONS
    from nanochat_pl.video.scene import COMPOSITIONS, kind_of, read_scene, write_scene

    kind = kind_of(name)
    if prompt is not None and kind != "attention":
        raise UserError(f"--prompt is for `video attention`; `video {kind}` reads none.")
    if data_only and flat:
        raise UserError("--data-only writes JSON, --flat draws a picture: give one of them.")
    if (frame is not None or composition is not None) and (data_only or flat):
        raise UserError("--frame and --composition are for what Remotion draws; leave out --data-only and --flat.")
    legal = (".json",) if data_only else (".png",) if flat else tuple(OPTIONS)
    path = out or Path(f"{kind}{legal[0]}")
    _check(path, legal)
    if frame is not None and path.suffix.lower() != ".png":
        raise UserError(f"--frame is for a still, and {path} is a video: take --out {path.with_suffix('.png')}.")
    is_written = run.endswith(".json")
    if is_written and prompt is not None:
        raise UserError(f"{run} holds the weights of one prompt already; leave --prompt out, or name a run.")
    content = read_scene(Path(run), kind) if is_written else _extract(kind, run, prompt)
    written = [path]
    if data_only:
        write_scene(content, path)
    elif flat:
        from nanochat_pl.video.flat import draw

        draw(content, path)
    else:
        written = _render(content, composition or COMPOSITIONS[kind], path, LAST_FRAME if frame is None else frame)
    print(*written, sep="\n")


def _check(path: Path, legal: tuple[str, ...]) -> None:
    """Before anything long: whether `path` ends with what can be made, is no folder, and stands in one."""
    from nanochat_pl.core.errors import UserError

    if path.suffix.lower() not in legal:
        raise UserError(f"--out {path} ends with '{path.suffix}'; here it must end with {' or '.join(legal)}.")
    if path.is_dir():
        raise UserError(f"--out {path} is a folder; name a file in it: --out {path / 'video'}{legal[0]}.")
    if not path.resolve().parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.resolve().parent}. Make it first.")


def _render(content: "Scene", composition: str, path: Path, frame: int) -> list[Path]:
    from nanochat_pl.cli.data_tables import bar_of_share
    from nanochat_pl.video.remotion import render

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_SIGTERM))  # so that nothing is left behind
    try:
        with bar_of_share(composition) as (bar, task):
            return render(content, composition, path, frame, lambda share: bar.update(task, completed=share))
    finally:
        signal.signal(signal.SIGTERM, before)


def _extract(kind: str, run: str, prompt: str | None) -> "Scene":
    if kind == "loss":
        from nanochat_pl.reporting.records import load_run
        from nanochat_pl.video.loss import loss_scene

        return loss_scene(load_run(run))
    if kind == "scaling":
        from nanochat_pl.reporting.sweep_records import load_sweep
        from nanochat_pl.video.scaling import scaling_scene

        return scaling_scene(load_sweep(run))
    if kind == "pipeline":
        return _pipeline(run)
    from nanochat_pl.checkpoint.named_model import find_named_model

    model = find_named_model(run)
    called = "/".join(Path(model.name).parts[-2:])
    if kind == "architecture":
        from nanochat_pl.checkpoint.header import read_header
        from nanochat_pl.video.architecture import architecture_scene

        return architecture_scene(read_header(model.folder), called)
    from nanochat_pl.video.attention import attention_scene, own_prompt

    loaded = model.load()
    return attention_scene(loaded, called, own_prompt(loaded) if prompt is None else prompt)


def _pipeline(run: str) -> "Scene":
    """Of the run's base stage, from whose data its tokens were made."""
    from nanochat_pl.config.resume import load_config
    from nanochat_pl.config.specs import Specs
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.reporting.records import load_run
    from nanochat_pl.tokenizers.load import load_tokenizer
    from nanochat_pl.video.pipeline import pipeline_scene

    record = load_run(run)
    stage = next((stage for stage in record.stages if stage.name == "base"), None)
    resolved = stage.resolved if stage else {}
    if stage is None or not stage.folder.config.exists() or not resolved.get("rows_per_step"):
        raise UserError(f"{record.path} has no base stage that was trained here, and only that packs text into rows.")
    specs = Specs.of(load_config(stage.folder))
    return pipeline_scene(
        specs.data,
        load_tokenizer(stage.folder.model / "tokenizer"),
        name=record.name,
        sequence_len=resolved["model"]["sequence_len"],
        rows_per_step=resolved["rows_per_step"],
        steps=int(stage.number("step") or 1),
        seed=specs.seed,
        trained_on=_fingerprint_of_data(stage.folder),
    )


def _fingerprint_of_data(run: "RunFolder") -> str | None:
    """As the newest checkpoint has it; None where none is left."""
    from nanochat_pl.checkpoint.contents import read_contents
    from nanochat_pl.checkpoint.saved import step_checkpoints
    from nanochat_pl.core.run_folder import as_object

    newest = next(iter(step_checkpoints(run.checkpoints)), None)
    return as_object(read_contents(newest).data.get("fingerprint")).get("training data") if newest else None
