"""From a conversation to a model's prompt, for models that know conversations and for those that only know text."""

from collections.abc import Sequence

from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.chat import (
    Message,
    check_ends_with_user,
    fit_for_completion,
    newest_that_fit,
    system_text,
    text_of,
)


def prompt_of(
    tokenizer: Tokenizer, messages: Sequence[Message], is_chat: bool, max_tokens: int
) -> tuple[list[int], int]:
    """The prompt that lets the model speak next, with as many of the newest turns as fit into `max_tokens`.

    A model that is not trained on conversations continues their text: the user's messages each begin a line (but for
    the first one), and the model's go on where the user's ended, as they did when it said them.

    Returns:
        The ids, and how many of the oldest messages by user and assistant are left out.

    Raises:
        UserError: these are no messages, the last is not by the user or does not fit, or the tokenizer cannot encode
            their text.
    """
    if is_chat:
        return fit_for_completion(tokenizer, messages, max_tokens)
    check_ends_with_user(messages)
    system = system_text(messages)
    opening = [tokenizer.bos_id] if system is None else [tokenizer.bos_id, *tokenizer.encode(f"{system}\n")]

    def render(turn: Message) -> list[int]:
        line_break = "\n" if turn["role"] == "user" else ""
        return tokenizer.encode(line_break + text_of(turn))

    return newest_that_fit(
        messages if system is None else messages[1:],
        max_tokens,
        lambda turn: opening + tokenizer.encode(text_of(turn)),
        render,
    )


def max_prompt_tokens(context_tokens: int, max_new_tokens: int) -> int:
    """How long a prompt may be so that its answer has room: all that it may need, but at most a quarter of the context.

    Most answers are far shorter than they may be; one that is longer goes on beyond the context.
    """
    return context_tokens - min(max_new_tokens, context_tokens // 4)


def stop_ids(tokenizer: Tokenizer, is_chat: bool) -> tuple[int, ...]:
    """The tokens that end an answer: a new document, and for a model that knows conversations the end of its turn."""
    end_of_turn = (tokenizer.special_tokens["<|assistant_end|>"],) if is_chat else ()
    return (*end_of_turn, *tokenizer.end_ids)
