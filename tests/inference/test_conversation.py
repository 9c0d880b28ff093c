"""Prompts for models that know conversations and for those that continue text."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.core.errors import UserError
from nanochat_pl.inference.conversation import max_prompt_tokens, prompt_of, stop_ids
from nanochat_pl.tokenizers.chat import render_for_completion
from nanochat_pl.tokenizers.specs import ByteSpec

BYTE = ByteSpec().build()
SPECIAL = BYTE.special_tokens
MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Once"},
    {"role": "assistant", "content": [{"type": "text", "text": " upon"}, {"type": "python", "text": "!"}]},
    {"role": "user", "content": "a time"},
]


def test_a_chat_model_gets_the_conversation_and_a_base_model_its_text() -> None:
    assert prompt_of(BYTE, MESSAGES, True, 1000) == (render_for_completion(BYTE, MESSAGES), 0)
    assert prompt_of(BYTE, MESSAGES, False, 1000) == ([BYTE.bos_id, *b"Be kind.\nOnce upon!\na time"], 0)
    assert prompt_of(BYTE, MESSAGES[1:2], False, 1000) == ([BYTE.bos_id, *b"Once"], 0)


def test_the_newest_turns_are_kept() -> None:
    for is_chat in (True, False):
        whole, _ = prompt_of(BYTE, MESSAGES, is_chat, 1000)
        newest, _ = prompt_of(BYTE, [MESSAGES[0], MESSAGES[3]], is_chat, 1000)
        assert prompt_of(BYTE, MESSAGES, is_chat, len(whole)) == (whole, 0)
        assert prompt_of(BYTE, MESSAGES, is_chat, len(whole) - 1) == (newest, 2)
        assert prompt_of(BYTE, MESSAGES, is_chat, len(newest)) == (newest, 2)
        with pytest.raises(UserError, match=f"needs {len(newest)} tokens, but .* {len(newest) - 1} at most"):
            prompt_of(BYTE, MESSAGES, is_chat, len(newest) - 1)


@settings(deadline=None)
@given(said=st.lists(st.text(max_size=10), min_size=3, max_size=9), is_chat=st.booleans())
def test_the_next_turns_prompt_begins_with_this_prompt_and_its_answer(said: list[str], is_chat: bool) -> None:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    for i in range(0, len(messages) - 2, 2):
        prompt, _ = prompt_of(BYTE, messages[: i + 1], is_chat, 1000)
        following, _ = prompt_of(BYTE, messages[: i + 3], is_chat, 1000)
        read = [*prompt, *BYTE.encode(said[i + 1])]
        assert following[: len(read)] == read


@pytest.mark.parametrize("is_chat", [True, False])
@pytest.mark.parametrize("messages", [[], MESSAGES[:3], [{"role": "robot", "content": ""}]])
def test_what_is_no_conversation_is_said(messages: Any, is_chat: bool) -> None:
    with pytest.raises(UserError):
        prompt_of(BYTE, messages, is_chat, 1000)


def test_stops_and_room() -> None:
    assert set(stop_ids(BYTE, True)) == {SPECIAL["<|assistant_end|>"], BYTE.bos_id}
    assert stop_ids(BYTE, False) == (BYTE.bos_id,)
    assert [max_prompt_tokens(2048, n) for n in (0, 100, 512, 5000)] == [2048, 1948, 1536, 1536]
