"""`python -m nanochat_pl tokenizer eval|train|import`: how well a tokenizer compresses, and making one by hand."""

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanochat_pl.cli.data_source import Overrides, specs_for
from nanochat_pl.cli.quantity import parse_quantity

if TYPE_CHECKING:
    import tiktoken
    from rich.table import Table

    from nanochat_pl.tokenizers.base import Tokenizer

app = typer.Typer(help="Compare tokenizers, or make one.", no_args_is_help=True, pretty_exceptions_enable=False)

TINY_WORLD_DOCUMENTS = 20
"""Held-out documents of each kind that the tiny world's figures are taken from."""

HELD_OUT_CHARACTERS = 1_000_000
"""Of a data set, which its figures are taken from."""

MOST_CHARACTERS = 2_000_000_000
"""Of a data set, to train on if nothing else is said: nanochat's number."""

Out = Annotated[Path, typer.Option(help="The folder to write; it must not hold a tokenizer yet.")]


@app.command("eval")
def evaluate(
    where: Annotated[
        Path | None,
        typer.Argument(
            help="A tokenizer's folder or a run; the default is the tiny world's tokenizer.", metavar="[FOLDER]"
        ),
    ] = None,
    overrides: Overrides = None,
    text: Annotated[Path | None, typer.Option(help="A UTF-8 text file to measure as well.")] = None,
    data: Annotated[
        str | None, typer.Option(help="A data set of which to measure held-out documents as well.", metavar="SOURCE")
    ] = None,
) -> None:
    """Print bytes per token by kind of text, beside GPT-2's and GPT-4's tokenizers where these are on this machine."""
    from nanochat_pl.cli.screen import show
    from nanochat_pl.data.text_files import read_text

    if where is not None and "=" in str(where) and not where.exists():
        where, overrides = None, [str(where), *(overrides or [])]
    _check_overrides(overrides, data)
    kinds = _kinds_of_text()
    if text is not None:
        kinds[text.name] = read_text(text)
    if data is not None:
        kinds[f"{data}, held out"] = _held_out_text(data, overrides)
    tokenizer = _tiny_world_tokenizer() if where is None else load_from(where)
    rows, unsupported = _measure(tokenizer, kinds)
    others, absent = _openai_encodings()
    show(_table(tokenizer, kinds, rows, others))
    for note in (*unsupported, *absent):
        print(note)


@app.command()
def train(
    out: Out,
    overrides: Overrides = None,
    text: Annotated[Path | None, typer.Option(help="A UTF-8 text file to train on.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A data set to train on: a name in conf/data (fineweb_edu ...), or a file, glob or folder.",
            metavar="SOURCE",
        ),
    ] = None,
    vocab_size: Annotated[
        int, typer.Option("--vocab", "--vocab-size", help="Tokens in all, the nine special ones included.")
    ] = 4096,
    max_chars: Annotated[
        int, typer.Option(help="Train on so many characters at most.", parser=parse_quantity, metavar="N")
    ] = MOST_CHARACTERS,
    characters: Annotated[
        bool, typer.Option("--characters", help="One token a character, as in nanoGPT's shakespeare_char; no BPE.")
    ] = False,
) -> None:
    """Train a BPE tokenizer on a text file or a data set, which is read as a stream."""
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.data.sources import read_documents
    from nanochat_pl.data.text_files import read_text
    from nanochat_pl.tokenizers.specs import BPESpec, CharSpec

    _check_free(out)
    if (text is None) == (data is None):
        raise UserError("Name what to train on: either --text FILE or --data SOURCE.")
    _check_overrides(overrides, data)
    spec = CharSpec() if characters else BPESpec(vocab_size, max_chars)
    if data is not None:
        source, _ = specs_for(data, overrides).data.build_sources()
        if source.holds_tokens:
            raise UserError(f"{data} is token ids already; a tokenizer is trained on text.")
        texts: Iterable[str] = read_documents(source)
    else:
        assert text is not None
        texts = [read_text(text)]
    with _reading(texts, max_chars) as watched:
        tokenizer = spec.build(watched)
    tokenizer.save(out)
    print(f"Wrote {out}: {tokenizer.vocab_size} tokens, fingerprint {tokenizer.fingerprint[:12]}.")
    seen = ["--data", data, *(overrides or [])] if data else ["--text", str(text)]
    print(f"Compare it: {shlex.join(['python', '-m', 'nanochat_pl', 'tokenizer', 'eval', str(out), *seen])}")


@app.command("import")
def import_named(
    name: Annotated[
        str,
        typer.Argument(
            help="One of OpenAI's encodings (gpt2, cl100k_base, o200k_base), or hf:NAME for any Hugging Face "
            "tokenizer: its name on the hub, a folder or a tokenizer.json."
        ),
    ],
    out: Out,
) -> None:
    """Write a tokenizer of others as one of ours, for data or weights that were made with it."""
    from nanochat_pl.tokenizers.specs import HFSpec, TiktokenSpec, TokenizerSpec

    _check_free(out)
    spec: TokenizerSpec = HFSpec(name.removeprefix("hf:")) if name.startswith("hf:") else TiktokenSpec(name)
    tokenizer = spec.build(())
    tokenizer.save(out)
    print(f"Wrote {out}: {tokenizer.vocab_size} tokens, of which {tokenizer.n_ordinary} are those of {name}.")


def load_from(where: Path) -> "Tokenizer":
    """The tokenizer in a folder, in a model folder, or of a run's latest stage."""
    from nanochat_pl.checkpoint.model_folder import find_model_folder
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.tokenizers.base import HEADER_FILE
    from nanochat_pl.tokenizers.load import load_tokenizer

    for folder in (where, where / "tokenizer"):
        if (folder / HEADER_FILE).is_file():
            return load_tokenizer(folder)
    try:
        return load_tokenizer(find_model_folder(where) / "tokenizer")
    except UserError as error:
        raise UserError(
            f"There is no tokenizer in {where}. Name the folder of a tokenizer (it holds {HEADER_FILE}), of a model or "
            "of a run."
        ) from error


def _tiny_world_tokenizer() -> "Tokenizer":
    """The one that `python train.py` uses by default: from the cache, else trained now."""
    from nanochat_pl.config.compose import compose
    from nanochat_pl.config.specs import Specs

    return Specs.of(compose(["recipe=tiny"])).build_tokenizer()


def _check_free(out: Path) -> None:
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.tokenizers.base import HEADER_FILE

    if (out / HEADER_FILE).exists():
        raise UserError(f"There is a tokenizer in {out} already. Name another folder with --out, or delete that one.")


@contextmanager
def _reading(texts: Iterable[str], most: int) -> Iterator[Iterator[str]]:
    """The texts, with a bar on standard error that shows how much of them is read."""
    from rich.progress import TextColumn, TimeElapsedColumn

    from nanochat_pl.cli.screen import progress

    bar = progress(TextColumn("{task.fields[read]}"), TimeElapsedColumn())
    task = bar.add_task("reading", total=most, read="")

    def watched() -> Iterator[str]:
        characters = documents = 0
        for text in texts:
            yield text
            characters, documents = characters + len(text), documents + 1
            bar.update(task, completed=characters, read=f"{documents:,} documents, {characters / 1e6:,.1f}M characters")
        bar.update(task, description="merging", total=characters)

    with bar:
        yield watched()


def _check_overrides(overrides: list[str] | None, data: str | None) -> None:
    from nanochat_pl.core.errors import UserError

    if overrides and data is None:
        raise UserError(f"{overrides[0]} goes with --data SOURCE, and there is none.")


def _held_out_text(data: str, overrides: list[str] | None) -> str:
    """The first held-out documents of a data set."""
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.data.sources import read_documents
    from nanochat_pl.tokenizers.base import without_surrogates

    _, source = specs_for(data, overrides).data.build_sources()
    if source.holds_tokens:
        raise UserError(f"{data} is token ids already; name the text that they were made of.")
    documents, characters = [], 0
    for document in read_documents(source):
        documents.append(document)
        characters += len(document)
        if characters >= HELD_OUT_CHARACTERS:
            break
    return without_surrogates("\n\n".join(documents))


def _kinds_of_text() -> dict[str, str]:
    from nanochat_pl.tiny_world import KINDS, document
    from nanochat_pl.tokenizers.samples import SAMPLES

    documents = range(TINY_WORLD_DOCUMENTS)
    tiny = {
        f"tiny world: {kind.replace('_', ' ')}": "\n\n".join(document(i, "val", kind) for i in documents)
        for kind in KINDS
    }
    return {**tiny, **SAMPLES}


def _measure(tokenizer: "Tokenizer", kinds: dict[str, str]) -> tuple[dict[str, int], list[str]]:
    """Tokens of each kind of text; notes on the kinds that this tokenizer cannot encode, or changes."""
    from nanochat_pl.core.errors import UserError

    counts, notes = {}, []
    for kind, text in kinds.items():
        try:
            ids = tokenizer.encode(text)
        except UserError as error:
            notes.append(f"{kind}: {error}")
            continue
        if tokenizer.decode(ids).strip() != text.strip():  # some put a space in front of a text
            notes.append(f"{kind}: this vocabulary does not keep all of it; what is decoded is another text.")
        counts[kind] = len(ids)
    return counts, notes


def _openai_encodings() -> tuple[dict[str, "tiktoken.Encoding"], list[str]]:
    """GPT-2's and GPT-4's encodings where tiktoken has their files in its cache; notes on those that it hasn't."""
    import hashlib
    import os
    import tempfile

    import tiktoken

    cache = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    folder = Path(cache) if cache else Path(tempfile.gettempdir()) / "data-gym-cache"
    host = "https://openaipublic.blob.core.windows.net/"
    files = {
        "GPT-2": ("gpt2", ("gpt-2/encodings/main/vocab.bpe", "gpt-2/encodings/main/encoder.json")),
        "GPT-4": ("cl100k_base", ("encodings/cl100k_base.tiktoken",)),
    }
    encodings, notes = {}, []
    for name, (encoding, paths) in files.items():
        if all((folder / hashlib.sha1((host + path).encode()).hexdigest()).is_file() for path in paths):
            encodings[name] = tiktoken.get_encoding(encoding)
        else:
            notes.append(
                f"{name}'s tokenizer is not on this machine; with a network connection, "
                f"python -c \"import tiktoken; tiktoken.get_encoding('{encoding}')\" fetches it."
            )
    return encodings, notes


def _table(
    tokenizer: "Tokenizer", kinds: dict[str, str], counts: dict[str, int], others: dict[str, "tiktoken.Encoding"]
) -> "Table":
    from nanochat_pl.cli.screen import table

    title = f"Bytes per token (more is better): {tokenizer.kind}, {tokenizer.vocab_size} tokens"
    columns = ("bytes", "tokens", "bytes/token", *(f"{name} bytes/token" for name in others))
    rows = table("text", *columns, numbers=len(columns), title=title)
    for kind, text in kinds.items():
        size = len(text.encode())
        own = (str(counts[kind]), f"{size / counts[kind]:.2f}") if kind in counts else ("-", "-")
        rows.add_row(kind, str(size), *own, *(f"{size / len(e.encode_ordinary(text)):.2f}" for e in others.values()))
    return rows
