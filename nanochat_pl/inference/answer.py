"""An answer's tokens as they come, turned into the text that can be shown already."""

import codecs
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nanochat_pl.core.errors import UserError
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.chat import PART_MARKERS


class Part(NamedTuple):
    """A piece of an answer.

    Attributes:
        kind: "text", "python" (a tool call) or "python_output".
        text: never empty.
    """

    kind: str
    text: str


class AnswerStream:
    """Token ids in, parts of the answer out; joined, they are the whole answer up to the first stop string.

    What cannot be shown yet is held back: the bytes of a character that is not complete, and text that a stop string
    may begin with. The four markers of tool calls change the kind of what follows; other special tokens are left out,
    and so are those of an output where the model chose them: what a tool put out, no model can make up.

    Args:
        tokenizer: the model's.
        stop: strings that end the answer and are no part of it. The one that is complete first counts, and of those
            the longest. They are looked for in what the model says, not in a tool's output, and not across markers.

    Attributes:
        stopped: a stop string has come; nothing follows.

    Raises:
        UserError: an empty stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        if "" in stop:
            raise UserError("A stop string is empty; leave it out, or name the text that ends an answer.")
        self.stopped = False
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        special = tokenizer.special_tokens
        self._kind_after: dict[int, str] = {}
        for kind, markers in PART_MARKERS.items():
            if markers:
                self._kind_after |= {special[markers[0]]: kind, special[markers[1]]: "text"}
        self._only_forced = {special[marker] for marker in PART_MARKERS["python_output"] or ()}
        self._begin("text")

    def feed(self, token_id: int, forced: bool) -> list[Part]:
        """Take the answer's next token; what can be shown now, in order.

        Args:
            forced: a tool's doing; the model did not choose it.

        Raises:
            UserError: the id is not in the vocabulary.
        """
        if self.stopped:
            return []
        if token_id in self._kind_after and (forced or token_id not in self._only_forced):
            parts = self.end()
            self._begin(self._kind_after[token_id])
            return parts
        text = self._tokenizer.decode_bytes([token_id])
        if not self._tokenizer.is_text(token_id):
            return []
        return self._show(self._decoder.decode(text), final=False)

    def end(self) -> list[Part]:
        """What was held back; a character that stayed incomplete is U+FFFD."""
        return [] if self.stopped else self._show(self._decoder.decode(b"", final=True), final=True)

    def _begin(self, kind: str) -> None:
        self._kind = kind
        self._searched = () if kind == "python_output" else self._stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def _show(self, text: str, final: bool) -> list[Part]:
        text, self._held = self._held + text, ""
        found = [(start + len(stop), start) for stop in self._searched if (start := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            text = text[: min(found)[1]]
        elif not final:
            shown = len(text) - max((_begun(text, stop) for stop in self._searched), default=0)
            text, self._held = text[:shown], text[shown:]
        return [Part(self._kind, text)] if text else []


def append_part(content: list[dict[str, str]], part: Part) -> None:
    """Add a part to an answer's content, to its last one where that is of the same kind."""
    if content and content[-1]["type"] == part.kind:
        content[-1]["text"] += part.text
    else:
        content.append({"type": part.kind, "text": part.text})


def content_of(parts: Iterable[Part]) -> str | list[dict[str, str]]:
    """The content of the assistant's message that these parts make: text, or a list where there are tool calls."""
    joined: list[dict[str, str]] = []
    for part in parts:
        append_part(joined, part)
    if all(part["type"] == "text" for part in joined):
        return "".join(part["text"] for part in joined)
    return joined


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
