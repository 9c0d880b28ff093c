"""Conversations about the model itself, from a readable file (identity.yaml beside this one)."""

import functools
from pathlib import Path
from typing import Any

import yaml

from nanochat_pl.core.errors import UserError
from nanochat_pl.tasks.task import UnscoredTask, check_split, digest, question_and_answer
from nanochat_pl.tokenizers.chat import Message

FILE = Path(__file__).with_name("identity.yaml")


class Identity(UnscoredTask):
    """Each way to ask in the file, with its answer.

    Args:
        path: a file of the same form; None: the one that comes with the project.

    Raises:
        UserError: the file is missing, is no YAML or of another form; the message says where and what.
    """

    name = "identity"

    def __init__(self, split: str = "train", path: str | None = None):
        check_split(self.name, split, ["train"])
        self._pairs = _load_pairs(Path(path) if path else FILE)

    def __len__(self) -> int:
        return len(self._pairs)

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(self.name, self._pairs)

    def conversation(self, i: int) -> list[Message]:
        self._check_index(i)
        return question_and_answer(*self._pairs[i])


def _load_pairs(path: Path) -> list[tuple[str, str]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The identity file {path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"The identity file {path} is no YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("entries"), list) or not content["entries"]:
        raise UserError(f"The identity file {path} must have a list of entries, as {FILE} has.")
    slots = {key: str(value) for key, value in content.items() if key != "entries"}
    pairs = []
    for number, entry in enumerate(content["entries"], start=1):
        asks, answer = _checked_entry(entry, f"{path}, entry {number}")
        pairs += [(_filled(ask, slots), _filled(answer, slots)) for ask in asks]
    return pairs


def _checked_entry(entry: Any, where: str) -> tuple[list[str], str]:
    entry = entry if isinstance(entry, dict) else {}
    asks, answer = entry.get("ask"), entry.get("answer")
    asks = [asks] if isinstance(asks, str) else asks
    if not isinstance(asks, list) or not asks or not all(isinstance(text, str) for text in (*asks, answer)):
        raise UserError(
            f"{where}: it needs ask, a text or a list of texts, and answer, a text (put odd ones in quotes)."
        )
    return asks, answer


def _filled(text: str, slots: dict[str, str]) -> str:
    for key, value in slots.items():
        text = text.replace(f"{{{key}}}", value)
    return text
