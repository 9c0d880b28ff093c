"""Conversations as tokens, in nanochat's format.

    <|bos|>  <|user_start|> text <|user_end|>
             <|assistant_start|> text <|python_start|> 12*7 <|python_end|>
                                      <|output_start|> 84 <|output_end|> text <|assistant_end|>  ...

The special tokens are added by their ids, so that no text that spells them can open or close anything.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.tokenizers.base import Tokenizer

Message = dict[str, Any]
"""{"role": "system", "user" or "assistant", "content": text or a list of parts {"type": ..., "text": ...}}.

What the assistant says may have the parts text, python (a tool call) and python_output; the others have only text.
"""

ROLES = ("system", "user", "assistant")
PART_MARKERS = {
    "text": None,
    "python": ("<|python_start|>", "<|python_end|>"),
    "python_output": ("<|output_start|>", "<|output_end|>"),
}
"""Each type of part, and the special tokens around it."""


class Rendered(NamedTuple):
    """A conversation to train on.

    Attributes:
        ids: its tokens.
        mask: as many numbers; 1 on what the assistant is to say: its text, its tool calls with their markers, and the
            end of its turn. 0 on all else, a tool's output too.
        cut: messages at the end that are left out because they did not fit.
    """

    ids: list[int]
    mask: list[int]
    cut: int = 0


def check_messages(messages: Any) -> None:
    """See that these are messages of a conversation: an optional system message, then user and assistant in turn.

    Raises:
        UserError: they are not; the message says which one (counted from 1) and what is wrong.
    """
    if not isinstance(messages, list | tuple):
        raise UserError(f"A conversation is a list of messages, but this is {_shown(messages)}.")
    if not messages:
        raise UserError("The conversation has no messages; it needs at least one by the user.")
    system = 0
    for i, message in enumerate(messages):
        where = f"Message {i + 1} of the conversation"
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise UserError(f"{where} is {_shown(message)}; it must be an object with role and content.")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            hint = nearest(role, ROLES) if isinstance(role, str) else "."
            raise UserError(f"{where} has the role {_shown(role)}{hint} Roles: {', '.join(ROLES)}.")
        if role == "system" and i == 0:
            system = 1
        elif role != (expected := ("user", "assistant")[(i - system) % 2]):
            raise UserError(
                f"{where} is by the {role}, but here the {expected} must speak: after at most one system message at "
                "the start, user and assistant take turns."
            )
        _check_content(content, role, where)
    if len(messages) == system:
        raise UserError("The conversation has only a system message; a message by the user must follow.")


def render_conversation(tokenizer: Tokenizer, messages: Sequence[Message], max_tokens: int | None = None) -> Rendered:
    """The tokens of a whole conversation, and which of them are to be learned.

    Args:
        max_tokens: of a longer conversation, the messages up to the last answer that fits; nothing at all where not
            even the first one does.

    Raises:
        UserError: these are no messages (`check_messages`), or text that the tokenizer cannot encode.
    """
    turns = _turns(messages)
    ids, mask = [tokenizer.bos_id], [0]
    kept: tuple[int, int] = (0, 0)  # turns up to the last answer that fits, and their tokens
    for i, turn in enumerate(turns):
        for tokens, supervised in _segments(tokenizer, turn):
            ids += tokens
            mask += [supervised] * len(tokens)
        if max_tokens is not None and len(ids) > max_tokens:
            length = kept[1]
            return Rendered(ids[:length], mask[:length], cut=len(turns) - kept[0])
        if turn["role"] == "assistant":
            kept = i + 1, len(ids)
    return Rendered(ids, mask)


def render_for_completion(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The prompt that lets the assistant speak next: the conversation, and the start of its turn.

    Raises:
        UserError: the last message is not by the user, or as `render_conversation`.
    """
    check_ends_with_user(messages)
    return [*render_conversation(tokenizer, messages).ids, tokenizer.special_tokens["<|assistant_start|>"]]


def fit_for_completion(tokenizer: Tokenizer, messages: Sequence[Message], max_tokens: int) -> tuple[list[int], int]:
    """`render_for_completion` of the system message and of as many of the newest turns as fit.

    Returns:
        The ids, and how many of the oldest messages by user and assistant are left out (an even number).

    Raises:
        UserError: not even the newest message fits; the numbers are named. Or as `render_for_completion`.
    """
    check_ends_with_user(messages)
    prefix = system_text(messages)

    def render_first(turn: Message) -> list[int]:
        return [tokenizer.bos_id, *_flat(tokenizer, _with_system_text(prefix, turn))]

    return newest_that_fit(
        messages[1:] if messages[0]["role"] == "system" else messages,
        max_tokens,
        render_first,
        lambda turn: _flat(tokenizer, turn),
        [tokenizer.special_tokens["<|assistant_start|>"]],
    )


def newest_that_fit(
    turns: Sequence[Message],
    max_tokens: int,
    render_first: Callable[[Message], list[int]],
    render: Callable[[Message], list[int]],
    end: Sequence[int] = (),
) -> tuple[list[int], int]:
    """A prompt of at most `max_tokens` of the newest turns; it begins and ends with one by the user.

    Args:
        turns: by user and assistant, the last by the user.
        render_first: the ids of the turn that comes first, and of all that stands before it.
        render: the ids of any other turn.
        end: ids behind the last turn.

    Returns:
        The ids, and how many turns are left out.

    Raises:
        UserError: not even the last turn fits.
    """
    last = len(turns) - 1
    fitting: tuple[list[int], int] | None = None
    rest = list(end)
    for start in range(last, -1, -2):
        ids = render_first(turns[start]) + rest
        if len(ids) > max_tokens:
            break
        fitting = ids, start
        if start:
            rest = render(turns[start - 1]) + render(turns[start]) + rest
    if fitting is None:
        raise UserError(
            f"The newest message (with the system message, where there is one) needs {len(ids):,} tokens, but a prompt "
            f"of this model may have {max_tokens:,} at most. Shorten it."
        )
    return fitting


def check_ends_with_user(messages: Sequence[Message]) -> None:
    """`check_messages`, and that the assistant is the next to speak.

    Raises:
        UserError: it is not.
    """
    check_messages(messages)
    if messages[-1]["role"] != "user":
        raise UserError("The last message of the conversation is by the assistant; it must be by the user.")


def system_text(messages: Sequence[Message]) -> str | None:
    """What the system message says, where there is one."""
    return text_of(messages[0]) if messages[0]["role"] == "system" else None


def text_of(message: Message) -> str:
    """All the text of a message, tool calls and their outputs included."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _turns(messages: Sequence[Message]) -> list[Message]:
    """The messages by user and assistant; the system's text stands before the first."""
    check_messages(messages)
    if messages[0]["role"] != "system":
        return list(messages)
    return [_with_system_text(system_text(messages), messages[1]), *messages[2:]]


def _with_system_text(system: str | None, turn: Message) -> Message:
    return turn if system is None else {"role": "user", "content": f"{system}\n\n{text_of(turn)}"}


def _segments(tokenizer: Tokenizer, turn: Message) -> list[tuple[list[int], int]]:
    """The tokens of a turn in pieces, each with its mask."""
    special, role = tokenizer.special_tokens, turn["role"]
    start, end = [special[f"<|{role}_start|>"]], [special[f"<|{role}_end|>"]]
    if role == "user":
        return [(start + tokenizer.encode(text_of(turn)) + end, 0)]
    content = turn["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    segments = [(start, 0)]
    for part in parts:
        ids = tokenizer.encode(part["text"])
        if markers := PART_MARKERS[part["type"]]:
            ids = [special[markers[0]], *ids, special[markers[1]]]
        segments.append((ids, int(part["type"] != "python_output")))
    return [*segments, (end, 1)]


def _flat(tokenizer: Tokenizer, turn: Message) -> list[int]:
    return [token for tokens, _ in _segments(tokenizer, turn) for token in tokens]


def _check_content(content: Any, role: str, where: str) -> None:
    if isinstance(content, str):
        return
    legal = tuple(PART_MARKERS) if role == "assistant" else ("text",)
    if not isinstance(content, list):
        raise UserError(f"The content of {_inside(where)} is {_shown(content)}; it must be text or a list of parts.")
    for i, part in enumerate(content):
        place = f"Part {i + 1} of {_inside(where)}"
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise UserError(f"{place} is {_shown(part)}; it must be an object with type and text.")
        if part.get("type") not in legal:
            raise UserError(
                f"{place}, by the {role}, has the type {_shown(part.get('type'))}; legal: {', '.join(legal)}."
            )


def _inside(where: str) -> str:
    return where[0].lower() + where[1:]


def _shown(value: Any) -> str:
    """A value as a message can show it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
