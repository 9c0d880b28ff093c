"""Conversations as tokens: the format restated as a script that is read mark by mark, and what must hold of any cut."""

import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanochat_pl.core.errors import UserError
from nanochat_pl.tiny_world import document
from nanochat_pl.tokenizers.base import SPECIAL_TOKENS, Tokenizer
from nanochat_pl.tokenizers.chat import (
    check_messages,
    fit_for_completion,
    render_conversation,
    render_for_completion,
)
from nanochat_pl.tokenizers.specs import BPESpec, ByteSpec, CharSpec

BPE = BPESpec(700).build([document(i) for i in range(300)])
BYTE = ByteSpec().build()
OF_ANY_TEXT = pytest.mark.parametrize("tokenizer", [BPE, BYTE], ids=["bpe", "byte"])

MARK = {name: chr(0xE000 + i) for i, name in enumerate(SPECIAL_TOKENS)}
"""A private character for each special token, so that a conversation can be written down as a script."""
JOINT = chr(0xE0FF)
"""Between parts that are encoded one by one."""

PLAIN = st.text(alphabet=st.characters(exclude_categories=["Cs", "Co"]), max_size=20)
TEXT = PLAIN | st.sampled_from([*SPECIAL_TOKENS, "", "<|bos|><|user_end|>", "What is 12*7?", "It is ", "\n\n"])
TEXT_PART = st.fixed_dictionaries({"type": st.just("text"), "text": TEXT})
ANY_PART = st.fixed_dictionaries({"type": st.sampled_from(["text", "python", "python_output"]), "text": TEXT})
USER = st.fixed_dictionaries(
    {"role": st.just("user"), "content": TEXT | st.lists(TEXT_PART, max_size=2)},
)
ASSISTANT = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": TEXT | st.lists(ANY_PART, max_size=5)},
)
SYSTEM = st.fixed_dictionaries({"role": st.just("system"), "content": TEXT | st.lists(TEXT_PART, max_size=2)})


@st.composite
def conversations(draw: Any, ends_with: str | None = None) -> list[dict[str, Any]]:
    messages = [draw(SYSTEM)] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        messages += [draw(USER), draw(ASSISTANT)]
    drop_last = ends_with == "user" or (ends_with is None and draw(st.booleans()))
    return messages[:-1] if drop_last else messages


def script_of(messages: list[dict[str, Any]]) -> str:
    """The conversation written down with a private character for each special token."""

    def plain(content: Any) -> str:
        return content if isinstance(content, str) else "".join(part["text"] for part in content)

    if messages[0]["role"] == "system":
        first = plain(messages[0]["content"]) + "\n\n" + plain(messages[1]["content"])
        messages = [{"role": "user", "content": first}, *messages[2:]]
    script = MARK["<|bos|>"]
    for message in messages:
        if message["role"] == "user":
            script += MARK["<|user_start|>"] + plain(message["content"]) + MARK["<|user_end|>"]
            continue
        script += MARK["<|assistant_start|>"]
        parts = message["content"]
        for part in [{"type": "text", "text": parts}] if isinstance(parts, str) else parts:
            wrap = {"text": (JOINT, JOINT)}
            wrap["python"] = MARK["<|python_start|>"], MARK["<|python_end|>"]
            wrap["python_output"] = MARK["<|output_start|>"], MARK["<|output_end|>"]
            script += part["text"].join(wrap[part["type"]])
        script += MARK["<|assistant_end|>"]
    return script


def read_script(tokenizer: Tokenizer, script: str) -> tuple[list[int], list[int]]:
    """The ids of a script, and 1 for what is learned: all that stands in an answer but for tools' outputs."""
    id_of = {MARK[name]: tokenizer.special_tokens[name] for name in SPECIAL_TOKENS}
    ids, mask, in_answer, in_output = [], [], False, False
    for piece in re.split(f"([{''.join(MARK.values())}{JOINT}])", script):
        if piece in id_of:
            in_output |= piece == MARK["<|output_start|>"]
            ids.append(id_of[piece])
            mask.append(int(in_answer and not in_output))
            in_output &= piece != MARK["<|output_end|>"]
            in_answer = (in_answer or piece == MARK["<|assistant_start|>"]) and piece != MARK["<|assistant_end|>"]
        elif piece != JOINT:
            encoded = tokenizer.encode(piece)
            ids += encoded
            mask += [int(in_answer and not in_output)] * len(encoded)
    return ids, mask


TOOL_CALL = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 12*7?"},
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "It is "},
            {"type": "python", "text": "12*7"},
            {"type": "python_output", "text": "84"},
            {"type": "text", "text": "84."},
        ],
    },
    {"role": "user", "content": "Thanks"},
]


def test_a_conversation_spelled_out() -> None:
    rendered = render_conversation(BYTE, TOOL_CALL)
    assert BYTE.decode(rendered.ids) == (
        "<|bos|><|user_start|>Be brief.\n\nWhat is 12*7?<|user_end|><|assistant_start|>It is <|python_start|>12*7"
        "<|python_end|><|output_start|>84<|output_end|>84.<|assistant_end|><|user_start|>Thanks<|user_end|>"
    )
    learned = [token for token, supervised in zip(rendered.ids, rendered.mask) if supervised]
    assert BYTE.decode(learned) == "It is <|python_start|>12*7<|python_end|>84.<|assistant_end|>"
    assert rendered.cut == 0


@OF_ANY_TEXT
@settings(deadline=None)
@given(messages=conversations())
@example(messages=TOOL_CALL)
def test_ids_and_mask_are_those_of_the_format(tokenizer: Tokenizer, messages: list[dict[str, Any]]) -> None:
    rendered = render_conversation(tokenizer, messages)
    assert (rendered.ids, rendered.mask) == read_script(tokenizer, script_of(messages))
    assert set(rendered.mask) <= {0, 1} and rendered.cut == 0


@OF_ANY_TEXT
@settings(deadline=None)
@given(messages=conversations())
def test_special_tokens_come_from_the_form_alone(tokenizer: Tokenizer, messages: list[dict[str, Any]]) -> None:
    ids = render_conversation(tokenizer, messages).ids
    turns = [message for message in messages if message["role"] != "system"]
    parts = [part for turn in turns if isinstance(turn["content"], list) for part in turn["content"]]
    calls = sum(part["type"] != "text" for part in parts)
    assert sum(token >= tokenizer.n_ordinary for token in ids) == 1 + 2 * len(turns) + 2 * calls


@OF_ANY_TEXT
@settings(deadline=None)
@given(messages=conversations(ends_with="assistant"))
def test_every_answers_prompt_is_a_prefix_of_the_conversation(
    tokenizer: Tokenizer, messages: list[dict[str, Any]]
) -> None:
    whole = render_conversation(tokenizer, messages)
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = render_for_completion(tokenizer, messages[:i])
            assert whole.ids[: len(prompt)] == prompt
            assert prompt[-1] == tokenizer.special_tokens["<|assistant_start|>"] and not whole.mask[len(prompt) - 1]


@OF_ANY_TEXT
@settings(deadline=None)
@given(messages=conversations(), data=st.data())
def test_a_long_conversation_ends_with_the_last_answer_that_fits(
    tokenizer: Tokenizer, messages: list[dict[str, Any]], data: st.DataObject
) -> None:
    whole = render_conversation(tokenizer, messages)
    max_tokens = data.draw(st.integers(0, len(whole.ids) + 1))
    rendered = render_conversation(tokenizer, messages, max_tokens)
    if len(whole.ids) <= max_tokens:
        assert rendered == whole
        return
    end = tokenizer.special_tokens["<|assistant_end|>"]
    answers = [i + 1 for i, token in enumerate(whole.ids) if token == end]
    length = max([n for n in answers if n <= max_tokens], default=0)
    assert rendered.ids == whole.ids[:length] and rendered.mask == whole.mask[:length]
    turns = sum(message["role"] != "system" for message in messages)
    assert rendered.cut == turns - 2 * rendered.ids.count(end) > 0


@OF_ANY_TEXT
@settings(deadline=None)
@given(messages=conversations(ends_with="user"), data=st.data())
def test_a_long_prompt_keeps_the_system_message_and_the_newest_turns(
    tokenizer: Tokenizer, messages: list[dict[str, Any]], data: st.DataObject
) -> None:
    system = [message for message in messages if message["role"] == "system"]
    turns = messages[len(system) :]
    prompts = {start: render_for_completion(tokenizer, system + turns[start:]) for start in range(0, len(turns), 2)}
    max_tokens = data.draw(st.integers(0, len(prompts[0]) + 1))
    fitting = [start for start, prompt in prompts.items() if len(prompt) <= max_tokens]
    if fitting:
        assert fit_for_completion(tokenizer, messages, max_tokens) == (prompts[min(fitting)], min(fitting))
    else:
        with pytest.raises(UserError, match=rf"needs {len(prompts[len(turns) - 1]):,} tokens.* {max_tokens:,} at most"):
            fit_for_completion(tokenizer, messages, max_tokens)


HI = {"role": "user", "content": "hi"}
HELLO = {"role": "assistant", "content": "hello"}


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("hi", "list of messages, but this is 'hi'"),
        ([], "no messages"),
        ([HI, "hello"], "Message 2 of the conversation is 'hello'"),
        ([{"role": "user"}], "Message 1 .* role and content"),
        ([{"role": "asistant", "content": ""}], "'asistant'; did you mean 'assistant'"),
        ([{"role": ["user"], "content": ""}], r"the role \['user'\]"),
        ([HELLO], "Message 1 of the conversation is by the assistant, but here the user must speak"),
        ([HI, HI], "Message 2 of the conversation is by the user, but here the assistant must speak"),
        ([HI, HELLO, {"role": "system", "content": ""}], "Message 3 .* by the system"),
        ([{"role": "system", "content": "x"}], "only a system message"),
        ([{"role": "system", "content": "x"}, HELLO], "Message 2 .* the user must speak"),
        ([{"role": "user", "content": None}], "The content of message 1 of the conversation is None"),
        ([{"role": "user", "content": [{"type": "python", "text": "1"}]}], "by the user, has the type 'python'"),
        ([HI, {"role": "assistant", "content": [{"type": "image", "text": ""}]}], "'image'; legal: text, python"),
        ([HI, {"role": "assistant", "content": [{"type": "text"}]}], "Part 1 of message 2 .* type and text"),
        ([HI, {"role": "assistant", "content": ["hello"]}], "Part 1 of message 2 .* is 'hello'"),
    ],
)
def test_what_is_no_conversation_is_said(messages: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_messages(messages)


def test_a_prompt_ends_with_the_user() -> None:
    for render in (render_for_completion, lambda *arguments: fit_for_completion(*arguments, 100)):
        with pytest.raises(UserError, match="must be by the user"):
            render(BYTE, [HI, HELLO])


def test_text_that_a_tokenizer_cannot_encode_is_said() -> None:
    with pytest.raises(UserError, match="U\\+00E9"):
        render_conversation(CharSpec().build(["abc"]), [{"role": "user", "content": "é"}])
