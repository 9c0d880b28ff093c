"""`python -m nanochat_pl data show CHATS`: conversations as a model reads them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from nanochat_pl.tasks.task import Task
    from nanochat_pl.tokenizers.base import Tokenizer
    from nanochat_pl.tokenizers.chat import Rendered

LEARNED, READ = ("bold green", "bold green underline"), ("default", "underline")
"""Styles of neighbouring tokens, in turn, so that one sees where one ends."""
LEARNED_SPECIAL, READ_SPECIAL = "bold green reverse", "dim reverse"
OPEN, CLOSE = "«", "»"
"""Around what is learned, where there are no colours."""

DEFAULT_CHATS = "tiny_facts", "tiny_stories", "tiny_sums", "tiny_letters", "tiny_math", "identity"


class Piece(NamedTuple):
    """One token, or the few that make up one character."""

    text: str
    learned: bool
    special: bool


def show(
    chats: Annotated[
        str | None,
        typer.Argument(
            help="A .jsonl or .json file of conversations, or a task by name (tiny_sums, gsm8k ...); the default is "
            "one conversation of each task of the tiny world.",
            metavar="[CHATS]",
        ),
    ] = None,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many conversations.")] = 3,
    start: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    split: Annotated[str, typer.Option(help="Of a task: train, val or test, of those that it has.")] = "train",
    path: Annotated[str | None, typer.Option(help="A task's data, laid out as on the hub.", metavar="FOLDER")] = None,
    model: Annotated[
        str | None, typer.Option(help="Whose tokenizer and context; the default is the newest model, else bytes.")
    ] = None,
) -> None:
    """Show conversations token by token: what is learned, what is only read, and the special tokens.

    Neighbouring tokens are underlined in turn. Without colours, what is learned stands between « and ».
    """
    from rich.console import Console

    from nanochat_pl.tokenizers.chat import render_conversation

    tokenizer, context, whose = _reader(model)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    tokens = learned = shown = cut = 0
    chosen = list(_chosen(chats, number, start, split, path))
    _print_legend(console, whose)
    for title, messages in chosen:
        rendered = render_conversation(tokenizer, messages)
        kept = render_conversation(tokenizer, messages, context) if context else rendered
        console.print(f"\n{title}: {len(rendered.ids):,} tokens, {sum(rendered.mask):,} learned", style="bold")
        _print(console, pieces(tokenizer, rendered))
        if note := _too_long(rendered, kept, context):
            console.print(note, style="yellow")
        tokens, learned = tokens + len(rendered.ids), learned + sum(rendered.mask)
        shown, cut = shown + 1, cut + (len(kept.ids) < len(rendered.ids))
    whole = f"{shown:,} conversation{'s' * (shown != 1)}: {tokens:,} tokens, {learned:,} of them learned"
    end = f"; {cut:,} longer than the context of {context:,} tokens" if cut else ""
    console.print(f"\n{whole} ({learned / tokens:.0%}){end}.")


def pieces(tokenizer: "Tokenizer", rendered: "Rendered") -> list[Piece]:
    """The tokens of a conversation as text; tokens that only together make up a character are one piece."""
    found, waiting = [], []
    pairs = list(zip(rendered.ids, rendered.mask))
    for i, (token, mask) in enumerate(pairs):
        if not tokenizer.is_text(token):
            found.append(Piece(tokenizer.decode([token]), bool(mask), special=True))
            continue
        waiting.append(token)
        follower = pairs[i + 1] if i + 1 < len(pairs) else (tokenizer.bos_id, mask)
        is_end = follower[1] != mask or not tokenizer.is_text(follower[0])
        if is_end or _is_text(tokenizer.decode_bytes(waiting)):
            found.append(Piece(tokenizer.decode(waiting), bool(mask), special=False))
            waiting = []
    return found


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _reader(model: str | None) -> "tuple[Tokenizer, int | None, str]":
    """The tokenizer, how many tokens its model can read (None without a model), and whose they are."""
    from nanochat_pl.checkpoint.header import read_header
    from nanochat_pl.checkpoint.named_model import find_named_model, model_folders
    from nanochat_pl.core.paths import runs_root
    from nanochat_pl.tokenizers.byte import ByteTokenizer
    from nanochat_pl.tokenizers.load import load_tokenizer

    if model is None and not model_folders(runs_root()):
        return ByteTokenizer(), None, "bytes; there is no model yet"
    named = find_named_model(model)
    return load_tokenizer(named.folder / "tokenizer"), read_header(named.folder).config.get("sequence_len"), named.name


def _chosen(
    chats: str | None, number: int, start: int, split: str, path: str | None
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Titles and conversations."""
    from nanochat_pl.core.errors import UserError

    for name in [chats] if chats is not None else DEFAULT_CHATS:
        task = _task(name, split, path)
        if start >= len(task):
            raise UserError(
                f"{name} has {len(task):,} conversations, so none from --start {start:,} on (counted from 0)."
            )
        for i in range(start, min(start + (number if chats is not None else 1), len(task))):
            yield f"{name} {i:,} of {len(task):,}", task.conversation(i)


def _task(name: str, split: str, path: str | None) -> "Task":
    from pathlib import Path

    from nanochat_pl.tasks.specs import TASKS, TaskSpec

    if name not in TASKS and (Path(name).suffix in (".jsonl", ".json") or Path(name).exists()):
        return TaskSpec("custom", "all", path=name).build()
    return TaskSpec(name, split=split, path=path).build()


def _print_legend(console: "Console", whose: str) -> None:
    from rich.text import Text

    special = ("<|special|>", LEARNED_SPECIAL), " ", ("<|special|>", READ_SPECIAL)
    console.print(Text.assemble("Tokens of ", whose, ": ", ("learned", LEARNED[0]), ", only read, ", *special, "."))
    if console.color_system is None:
        console.print(f"There are no colours here: what is learned stands between {OPEN} and {CLOSE}.")


def _print(console: "Console", shown: Sequence[Piece]) -> None:
    from rich.text import Text

    from nanochat_pl.cli.chat_terminal import CONTROLS

    text, before = Text(), False
    for i, piece in enumerate(shown):
        if console.color_system is None and piece.learned != before:
            text.append(OPEN if piece.learned else CLOSE)
        before = piece.learned
        written = piece.text.translate(CONTROLS).replace("\n", "↵\n").replace("\t", "→\t")
        if piece.special:
            text.append("\n" if piece.text in _BEGINS_A_LINE else "")
            text.append(written, LEARNED_SPECIAL if piece.learned else READ_SPECIAL)
        else:
            text.append(written, (LEARNED if piece.learned else READ)[i % 2])
    if before and console.color_system is None:
        text.append(CLOSE)
    console.print(text)


_BEGINS_A_LINE = ("<|user_start|>", "<|assistant_start|>")


def _too_long(rendered: "Rendered", kept: "Rendered", context: int | None) -> str:
    if len(kept.ids) == len(rendered.ids):
        return ""
    if not any(kept.mask):
        return f"Longer than the context of {context:,} tokens, even to its first answer: training leaves it out."
    return (
        f"Longer than the context of {context:,} tokens: training reads the first {len(kept.ids):,} and leaves out the "
        f"last {kept.cut:,} message(s)."
    )
