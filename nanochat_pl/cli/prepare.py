"""`python -m nanochat_pl data prepare`: a data set tokenized once, into files that training maps into memory."""

import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanochat_pl.cli.data_source import DEFAULT_SOURCE, Overrides, Source
from nanochat_pl.cli.quantity import parse_quantity

if TYPE_CHECKING:
    from nanochat_pl.config.specs import Specs
    from nanochat_pl.data.specs import Sources
    from nanochat_pl.data.tokens.folder import TokenIndex
    from nanochat_pl.data.tokens.prepare import Progress
    from nanochat_pl.tokenizers.base import Tokenizer

HELD_OUT_SHARE = 0.01
"""With --max-tokens, so many of them are held out at most, but never fewer than one validation reads."""

LEAST_HELD_OUT_TOKENS = 1 << 19


def _tokens(explanation: str) -> Any:
    return typer.Option(help=explanation, parser=parse_quantity, metavar="N")


def prepare(
    tokenizer: Annotated[
        str,
        typer.Option(
            help="The folder of a tokenizer, model or run; or a name in conf/tokenizer (bpe, byte ...), then it is "
            "trained on the data, unless it was before.",
            metavar="FOLDER|NAME",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write; an interrupted preparation in it goes on.")],
    source: Source = DEFAULT_SOURCE,
    overrides: Overrides = None,
    processes: Annotated[
        int | None, typer.Option(help="How many tokenize; the default is one per processor.", show_default=False)
    ] = None,
    max_tokens: Annotated[
        int | None, _tokens("Stop at so many tokens to train on, such as 1e9 or 100M; the default is all.")
    ] = None,
    max_val_tokens: Annotated[
        int | None, _tokens("Stop at so many held-out tokens; the default is all, or 1% of --max-tokens.")
    ] = None,
    shard_tokens: Annotated[int, _tokens("About so many tokens in a file.")] = 1 << 28,
    bins: Annotated[
        bool, typer.Option("--bins", help="Write nanoGPT's train.bin and val.bin beside them (and meta.pkl for chars).")
    ] = False,
) -> None:
    """Tokenize a data set into memory-mapped shards, to train from with data=tokens data.path=DIR."""
    from nanochat_pl.cli.data_source import specs_for
    from nanochat_pl.core.errors import EXIT_SIGINT, Interrupted
    from nanochat_pl.data.tokens.bins import write_bins
    from nanochat_pl.data.tokens.prepare import Preparation

    specs = specs_for(source, overrides)
    sources = specs.data.build_whole_sources()
    if max_tokens is not None and max_val_tokens is None:
        max_val_tokens = max(LEAST_HELD_OUT_TOKENS, int(max_tokens * HELD_OUT_SHARE))
    train, val = sources
    preparation = Preparation(
        train,
        val,
        _tokenizer(tokenizer, source, overrides, sources),
        shard_tokens=shard_tokens,
        max_tokens=max_tokens,
        max_val_tokens=max_val_tokens,
        processes=processes or os.cpu_count() or 1,
    )
    try:
        with _bars() as show:
            index = preparation.run(out, show)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"Interrupted. The finished files in {out} are kept: run the same command again to go on.", EXIT_SIGINT
        ) from error
    if bins:
        size = preparation.tokenizer.dtype().itemsize
        whom = (
            "for nanoGPT" if size == 2 else "uint32: nanoGPT reads them only with np.uint32 in place of its np.uint16"
        )
        for name, count in write_bins(index, out, preparation.tokenizer).items():
            print(f"{out / name}: {count:,} ids of {size} bytes, {whom}.")
    print(_summary(index, out, preparation.tokenizer, specs))


def _tokenizer(name: str, source: str, overrides: list[str] | None, sources: "Sources") -> "Tokenizer":
    """The one in a folder, or that of the data set for a name in conf/tokenizer."""
    from nanochat_pl.cli.data_source import specs_for
    from nanochat_pl.cli.tokenizer import load_from
    from nanochat_pl.config.compose import CONF_FOLDER
    from nanochat_pl.core.errors import UserError

    if Path(name).expanduser().is_dir():
        return load_from(Path(name).expanduser())
    names = sorted(path.stem for path in (CONF_FOLDER / "tokenizer").glob("*.yaml"))
    if name not in names:
        raise UserError(
            f"--tokenizer: there is no folder {name} (looked from {Path.cwd()}), and it is none of {', '.join(names)}."
        )
    return specs_for(source, [f"tokenizer={name}", *(overrides or [])]).build_tokenizer(sources)


@contextmanager
def _bars() -> Iterator[Callable[["Progress"], None]]:
    """A progress bar for each split on standard error, and what updates them."""
    from rich.progress import TaskID, TaskProgressColumn, TextColumn

    from nanochat_pl.cli import screen

    bars = screen.progress(TaskProgressColumn(), TextColumn("{task.fields[counts]}"))
    begun: dict[str, tuple[TaskID, float, int]] = {}

    def show(progress: "Progress") -> None:
        if progress.split not in begun:
            task = bars.add_task(progress.split, total=1.0, counts="")
            begun[progress.split] = task, time.monotonic(), progress.tokens
        task, start, tokens_before = begun[progress.split]
        speed = (progress.tokens - tokens_before) / max(1e-3, time.monotonic() - start)
        counts = f"{progress.documents:,} documents, {progress.tokens / 1e6:,.1f}M tokens, {speed / 1e3:,.0f}k tok/s"
        bars.update(task, completed=progress.share, counts=counts)

    with bars:
        yield show


def _summary(index: "TokenIndex", out: Path, tokenizer: "Tokenizer", specs: "Specs") -> str:
    """What there is now, and what to do with it."""
    train, val = index.splits["train"], index.splits["val"]
    packing = " data.packing=windows" if specs.data.packing == "windows" else ""
    return (
        f"{out}: {train['tokens']:,} tokens of {train['documents']:,} documents to train on, {val['tokens']:,} of "
        f"{val['documents']:,} held out; {len(train['files']) + len(val['files'])} files, "
        f"{(train['bytes'] + val['bytes']) / 1e6:,.1f} MB, tokenizer {tokenizer.kind} of {tokenizer.vocab_size} tokens "
        f"({tokenizer.fingerprint[:12]}).\n"
        f"Train on it: python train.py data=tokens data.path={shlex.quote(str(out))}{packing}"
    )
