"""`python -m nanochat_pl tokenizer eval|train`: how well a tokenizer compresses, and training one by hand."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import tiktoken
    from rich.table import Table

    from nanochat_pl.tokenizers.base import Tokenizer

app = typer.Typer(help="Compare tokenizers, or train one.", no_args_is_help=True, pretty_exceptions_enable=False)

TINY_WORLD_DOCUMENTS = 20
"""Held-out documents of each kind that the tiny world's figures are taken from."""


@app.command("eval")
def evaluate(
    where: Annotated[
        Path | None,
        typer.Argument(
            help="A tokenizer's folder or a run; the default is the tiny world's tokenizer.", metavar="FOLDER"
        ),
    ] = None,
    text: Annotated[Path | None, typer.Option(help="A UTF-8 text file to measure as well.")] = None,
) -> None:
    """Print bytes per token by kind of text, beside GPT-2's and GPT-4's tokenizers where these are on this machine."""
    from rich.console import Console

    from nanochat_pl.data.text_files import read_text

    kinds = _kinds_of_text()
    if text is not None:
        kinds[text.name] = read_text(text)
    tokenizer = _tiny_world_tokenizer() if where is None else load_from(where)
    console = Console()
    rows, unsupported = _measure(tokenizer, kinds)
    others, absent = _openai_encodings()
    console.print(_table(tokenizer, kinds, rows, others))
    for note in (*unsupported, *absent):
        console.print(note, style="dim", highlight=False)


@app.command()
def train(
    text: Annotated[Path, typer.Option(help="A UTF-8 text file.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not hold a tokenizer yet.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens in all, the nine special ones included.")] = 4096,
) -> None:
    """Train a BPE tokenizer on a text file."""
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.data.text_files import read_text
    from nanochat_pl.tokenizers.base import HEADER_FILE
    from nanochat_pl.tokenizers.specs import BPESpec

    if (out / HEADER_FILE).exists():
        raise UserError(f"There is a tokenizer in {out} already. Name another folder with --out, or delete that one.")
    tokenizer = BPESpec(vocab_size, max_chars=None).build([read_text(text)])
    tokenizer.save(out)
    print(f"Wrote {out}: {tokenizer.vocab_size} tokens, fingerprint {tokenizer.fingerprint[:12]}.")
    print(f"Compare it: python -m nanochat_pl tokenizer eval {out} --text {text}")


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
    """Tokens of each kind of text; notes on the kinds that this tokenizer cannot encode."""
    from nanochat_pl.core.errors import UserError

    counts, notes = {}, []
    for kind, text in kinds.items():
        try:
            ids = tokenizer.encode(text)
        except UserError as error:
            notes.append(f"{kind}: {error}")
            continue
        assert tokenizer.decode(ids) == text, f"{kind} does not come back from its ids"
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
    from rich.table import Table

    table = Table(title=f"Bytes per token (more is better): {tokenizer.kind}, {tokenizer.vocab_size} tokens")
    table.add_column("text")
    for column in ("bytes", "tokens", "bytes/token", *(f"{name} bytes/token" for name in others)):
        table.add_column(column, justify="right")
    for kind, text in kinds.items():
        size = len(text.encode())
        own = (str(counts[kind]), f"{size / counts[kind]:.2f}") if kind in counts else ("-", "-")
        table.add_row(kind, str(size), *own, *(f"{size / len(e.encode_ordinary(text)):.2f}" for e in others.values()))
    return table
