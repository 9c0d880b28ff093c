"""Conversations from a file of one's own: JSON Lines or JSON."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.core.held_out import held_out
from nanochat_pl.tasks.task import UnscoredTask, check_split, digest
from nanochat_pl.tokenizers.chat import Message, check_messages

_FORM = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}, or such a list'

HELD_OUT = 0.05
"""Share of a file's conversations, where none are named to validate on."""


class Custom(UnscoredTask):
    """The conversations of a file; each is a list of messages, or an object with the list under `messages`.

    Args:
        split: "all" of the file; "val", the part of it that a hash of each conversation holds out, at least one; or
            "train", the others.
        path: a .json file holds a list of conversations, any other name one conversation a line (empty lines are
            skipped).
        val_path: such a file for the split val; train then is all of `path`.

    Raises:
        UserError: there is no such file, it is empty, nothing in it can be held out, or a conversation is none; the
            message names the file, the line (in a .json file whose text is well-formed: the conversation's number), and
            what is wrong.
    """

    name = "custom"

    def __init__(self, split: str = "train", *, path: str, val_path: str | None = None):
        check_split(self.name, split, ("train", "val", "all"))
        conversations = load_conversations(Path(val_path if val_path and split == "val" else path))
        is_whole = split == "all" or val_path is not None
        self._conversations = conversations if is_whole else _one_side(conversations, split == "val", path)

    def __len__(self) -> int:
        return len(self._conversations)

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(self.name, self._conversations)

    def conversation(self, i: int) -> list[Message]:
        self._check_index(i)
        return self._conversations[i]


def _one_side(conversations: list[list[Message]], is_val: bool, path: str) -> list[list[Message]]:
    """Those held out, or the others."""
    chosen = held_out([json.dumps(conversation, sort_keys=True) for conversation in conversations], HELD_OUT)
    if chosen is None:
        raise UserError(
            f"{path} holds only one conversation (or copies of it), so that none can be held out to validate on. Give "
            "more, or another file with others: tasks.val_path=FILE (in a list of tasks: val_path)."
        )
    return [conversation for conversation, held in zip(conversations, chosen) if held == is_val]


def load_conversations(path: Path) -> list[list[Message]]:
    """All conversations of a file, checked; raises as `Custom`."""
    text = _read(path)
    entries = _in_list(path, text) if path.suffix == ".json" else _by_line(path, text)
    conversations = [_messages(entry, where) for where, entry in entries]
    if not conversations:
        raise UserError(f"{path} is empty: there is not one conversation in it. A line of it looks like this: {_FORM}.")
    return conversations


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"There is no file {path}. Give the path of a .jsonl or .json file of conversations.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give the path of one .jsonl or .json file of conversations.") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: this is not UTF-8 text ({error.reason}).") from None
    except OSError as error:
        raise MachineError(f"{path} cannot be read: {error.strerror or error}.") from error


def _by_line(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", _parsed(path, line, number)


def _in_list(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    entries = _parsed(path, text, 1) if text.strip() else []
    if not isinstance(entries, list):
        raise UserError(f"{path} holds {_kind(entries)}, but a .json file must hold a list of conversations.")
    for number, entry in enumerate(entries, start=1):
        yield f"{path}, conversation {number}", entry


def _parsed(path: Path, text: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(f"{path}, line {line}, column {error.colno}: this is not JSON ({error.msg}).") from None
    except RecursionError:
        raise UserError(f"{path}, line {first_line}: this JSON is nested too deeply for a conversation.") from None


def _messages(entry: Any, where: str) -> list[Message]:
    if isinstance(entry, dict):
        if "messages" not in entry:
            keys = ", ".join(map(str, entry)) or "none"
            raise UserError(f"{where}: this object has no messages (its keys: {keys}). A conversation is {_FORM}.")
        entry = entry["messages"]
    if not isinstance(entry, list):
        raise UserError(f"{where}: this is {_kind(entry)}. A conversation is {_FORM}.")
    try:
        check_messages(entry)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if entry[-1]["role"] != "assistant":
        raise UserError(f"{where}: the last message is by the user; a conversation to learn from ends with an answer.")
    return entry


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
