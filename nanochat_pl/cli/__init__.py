"""`python -m nanochat_pl COMMAND` (console script `nanochat-pl`): everything beside training and serving."""

import sys

import typer

from nanochat_pl.cli import (
    bench,
    chat,
    checkpoints,
    data,
    doctor,
    eval,
    experiments,
    plan,
    report,
    sample,
    tokenizer,
    video,
)
from nanochat_pl.core.imported import find_own_modules
from nanochat_pl.core.paths import known_error

app = typer.Typer(
    help="nanochat-pl: train small ChatGPT-like models from scratch. Training itself is `python train.py`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("chat")(chat.chat)
app.command("sample")(sample.sample)
app.command("eval")(eval.evaluate)
app.command("plan", context_settings={"ignore_unknown_options": True})(plan.plan)
app.command("bench", context_settings={"ignore_unknown_options": True})(bench.bench)
app.command("report")(report.report)
app.command("doctor")(doctor.doctor)
app.command("video")(video.video)
app.add_typer(checkpoints.app, name="checkpoints")
app.add_typer(data.app, name="data")
app.add_typer(experiments.app, name="experiments")
app.add_typer(tokenizer.app, name="tokenizer")


def main() -> None:
    """Run the command line; a user's mistake ends with one paragraph and its exit code."""
    find_own_modules()
    try:
        app()
    except Exception as error:
        known = known_error(error)
        if known is None:
            raise
        print(f"\n{known}", file=sys.stderr)
        sys.exit(known.exit_code)
