"""`python -m nanochat_pl data verify|download|stats|prepare|show`: what training reads, looked at beforehand."""

import functools
import re
from pathlib import Path
from typing import Annotated

import typer

from nanochat_pl.cli import data_show, prepare
from nanochat_pl.cli.data_source import DEFAULT_SOURCE, Overrides, Source
from nanochat_pl.cli.quantity import parse_quantity

app = typer.Typer(
    help="Verify, fetch, measure, prepare and show training data.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.command("prepare")(prepare.prepare)
app.command("show")(data_show.show)


@app.command()
def verify(
    source: Source = DEFAULT_SOURCE,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option(min=0, help="Documents to show.")] = 3,
) -> None:
    """Read the files at hand to their ends and tell what is wrong with them; exit code 1 where something is.

    Looks for damage, the column of texts, sizes and hashes where they are known; null, empty and tiny documents, exact
    duplicates; summarises language and score where there are such columns.
    """
    from rich.console import Console

    from nanochat_pl.cli.data_source import specs_for
    from nanochat_pl.cli.data_tables import bar_of_bytes, print_verification
    from nanochat_pl.data.at_hand import files_at_hand
    from nanochat_pl.data.hub.cache import size_of
    from nanochat_pl.data.verify import Verification

    at_hand = files_at_hand(specs_for(source, overrides).data)
    verification = Verification(at_hand.text_key, samples)
    with bar_of_bytes("verifying", sum(size_of(file.path) for file in at_hand.files)) as (
        bar,
        task,
    ):
        for file in at_hand.files:
            verification.check(file, functools.partial(bar.advance, task))
    if not print_verification(Console(), verification, at_hand):
        raise typer.Exit(1)


@app.command()
def download(
    source: Source = DEFAULT_SOURCE,
    overrides: Overrides = None,
    number: Annotated[
        int | None,
        typer.Option(
            "-n", "--number", min=1, help="How many files: the first that training reads. The default is all."
        ),
    ] = None,
) -> None:
    """Fetch files of a hub data set into the cache, checked, and in the order in which training reads them.

    What is there already is kept; interrupted, it goes on where it was. Exit code 1 where a file is bad.
    """
    from nanochat_pl.cli.data_source import specs_for
    from nanochat_pl.cli.data_tables import bar_of_bytes
    from nanochat_pl.core.errors import EXIT_SIGINT, Interrupted
    from nanochat_pl.data.hub.fetch import Fetch
    from nanochat_pl.data.hub.specs import HubDataSpec

    specs = specs_for(source, overrides)
    if not isinstance(specs.data, HubDataSpec) or specs.data.path:
        specs.data.build_sources()
        print(f"{source} is on this machine: there is nothing to download.")
        return
    fetch = Fetch(specs.data, specs.seed, number)
    try:
        with bar_of_bytes("fetching", fetch.num_bytes) as (bar, task):
            fetch.run(lambda there: bar.update(task, completed=there))
    except KeyboardInterrupt as error:
        raise Interrupted("Interrupted. Run the same command again to go on.", EXIT_SIGINT) from error
    there, gigabytes = len(fetch.files) - len(fetch.bad), fetch.bytes_there() / 1e9
    print(f"{there:,} of {fetch.num_all_files:,} files ({gigabytes:,.2f} GB) of {source} are in {fetch.folder}.")
    for name in fetch.bad:
        print(f"{name} is bad, and left out of training.")
    if fetch.bad:
        raise typer.Exit(1)


@app.command()
def stats(
    source: Source = DEFAULT_SOURCE,
    overrides: Overrides = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="A tokenizer's folder, a model or a run; the default is the one that training would use, if it is "
            "there already.",
            metavar="FOLDER",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(parser=parse_quantity, help="Measure the first so many documents.", metavar="N")
    ] = 100_000,
    everything: Annotated[bool, typer.Option("--all", help="Measure all documents instead.")] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Where to draw the lengths; the default is ./SOURCE-lengths.png.")
    ] = None,
) -> None:
    """Count documents, bytes, characters and tokens, and draw how long the documents are."""
    from rich.console import Console

    from nanochat_pl.cli.data_source import specs_for
    from nanochat_pl.cli.data_tables import bar_of_share, print_lengths
    from nanochat_pl.cli.tokenizer import load_from
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.data.statistics import draw_lengths, measure
    from nanochat_pl.data.stream import Dealer

    specs = specs_for(source, overrides)
    if specs.data.own_tokenizer() is not None:
        raise UserError("These data are tokens already: index.json in their folder says how many.")
    train, val = specs.data.build_sources()
    used = load_from(tokenizer) if tokenizer is not None else specs.find_tokenizer((train, val))
    with bar_of_share("measuring") as (bar, task):
        lengths = measure(
            train,
            used,
            Dealer(train, specs.data.streams, specs.seed).first_epoch(),
            None if everything else limit,
            lambda share: bar.update(task, completed=share),
        )
        if not len(lengths):
            raise UserError(f"{source} holds no document to train on.")
        is_all = everything or len(lengths) < limit
        held_out = measure(val, used, range(val.num_shards)) if is_all else None
    name = Path(source).stem
    out = picture or Path(f"{re.sub(r'[^0-9A-Za-z_-]+', '_', name)}-lengths.png")
    draw_lengths(lengths, out, f"{name}: {len(lengths):,} {'document' if len(lengths) == 1 else 'documents'}")
    print_lengths(Console(), name, lengths, held_out, used)
    if not is_all:
        print(f"These are the first {limit:,} documents that training reads; --all measures the others, too.")
    print(f"Drawn into {out}.")
