"""Conversations from a file of one's own: JSON Lines or JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.tasks.task import UnscoredTask, check_only_train
from nanochat_pl.tokenizers.chat import Message, check_messages

_FORM = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}, or such a list'


class Custom(UnscoredTask):
    """The conversations of a file; each is a list of messages, or an object with the list under `messages`.

    Args:
        path: a .json file holds a list of conversations, any other name one conversation a line (empty lines are
            skipped).

    Raises:
        UserError: there is no such file, it is empty, or a conversation is none; the message names the file, the line
            (in a .json file whose text is well-formed: the conversation's number), and what is wrong.
    """

    name = "custom"

    def __init__(self, split: str = "train", *, path: str):
        check_only_train(self.name, split)
        self._conversations = load_conversations(Path(path))

    def __len__(self) -> int:
        return len(self._conversations)

    def conversation(self, i: int) -> list[Message]:
        self._check_index(i)
        return self._conversations[i]


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
