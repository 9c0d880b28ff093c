"""The state machine of tool calls: against a regular expression as its twin, and with every kind of tokenizer."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanochat_pl.tokenizers.base import SPECIAL_TOKENS, Tokenizer
from nanochat_pl.tokenizers.bpe import train_bpe
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.tokenizers.char import CharTokenizer
from nanochat_pl.tools.calculator import evaluate
from nanochat_pl.tools.tool_calls import MAX_OUTPUT_CHARACTERS, ToolCalls

BYTE = ByteTokenizer()
CHAR = CharTokenizer("0123456789+-*/.() '\"abcdefghijklmnopqrstuvwxyz")
BPE = train_bpe(["what is 12*7 ? " * 9], 265)
OF_EVERY_KIND = pytest.mark.parametrize("tokenizer", [BYTE, CHAR, BPE], ids=["byte", "char", "bpe"])


def special(tokenizer: Tokenizer, name: str) -> int:
    return tokenizer.special_tokens[f"<|{name}|>"]


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of `text` in which {python_start} and the like stand for the special tokens."""
    parts = enumerate(re.split(r"\{(\w+)\}", text))
    return [i for n, part in parts for i in ([special(tokenizer, part)] if n % 2 else tokenizer.encode(part))]


def feed_all(calls: ToolCalls, tokens: list[int]) -> list[list[int]]:
    """What was forced, call by call."""
    return [forced for token in tokens if (forced := calls.feed(token))]


@OF_EVERY_KIND
@pytest.mark.parametrize(("expression", "result"), [("12*7", "84"), ("48/2 + .5", "24.5"), ("'hello'.count('l')", "2")])
def test_a_call_is_answered(tokenizer: Tokenizer, expression: str, result: str) -> None:
    calls = ToolCalls(tokenizer)
    tokens = ids(tokenizer, "it is {python_start}" + expression)
    assert feed_all(calls, tokens) == []
    assert calls.in_call
    forced = calls.feed(special(tokenizer, "python_end"))
    assert forced == ids(tokenizer, "{output_start}" + result + "{output_end}")
    assert not calls.in_call
    # Fed back or not, the state is the same, and the next call works.
    assert feed_all(calls, forced) == []
    assert feed_all(calls, [*tokens, special(tokenizer, "python_end")]) == [forced]


@OF_EVERY_KIND
@pytest.mark.parametrize(
    "text",
    [
        "{python_end}",
        "{python_start}{python_end}",
        "{python_start}1+{python_end}",
        "{python_start}1/0{python_end}",
        "{python_start}9**9**9{python_end}",
        "{python_start}eval('1'){python_end}",
        "{python_start}1{python_start}2{python_end}",
        "{python_start}{python_start}2{python_end}",
        "{python_start}1{output_start}1{output_end}{python_end}",
        "{python_start}1{assistant_end}{python_end}",
        "{python_start}1{bos}{python_end}",
        "{output_start}1{output_end}",
        "12*7{python_end}",
        "{python_start}" + "1" * 2000,
        "{python_start}" + " " * 2000 + "{python_end}",
    ],
)
def test_anything_else_ends_quietly(tokenizer: Tokenizer, text: str) -> None:
    calls = ToolCalls(tokenizer)
    assert feed_all(calls, ids(tokenizer, text)) == []
    calls.feed(special(tokenizer, "python_end"))
    assert feed_all(calls, ids(tokenizer, "{python_start}1+1{python_end}")) == [
        ids(tokenizer, "{output_start}2{output_end}")
    ]


def test_markers_spelled_in_text_stay_text() -> None:
    spelled = "".join(SPECIAL_TOKENS)
    calls = ToolCalls(BYTE, tool=lambda text: text + spelled)
    assert feed_all(calls, BYTE.encode("<|python_start|>1+1<|python_end|>")) == []
    (forced,) = feed_all(calls, ids(BYTE, "{python_start}" + spelled + "{python_end}"))
    assert all(token < BYTE.n_ordinary for token in forced[1:-1])
    assert BYTE.decode(forced[1:-1]) == spelled * 2


def test_an_output_is_cut() -> None:
    calls = ToolCalls(BYTE, tool=lambda text: "9" * 10**6)
    (forced,) = feed_all(calls, ids(BYTE, "{python_start}1{python_end}"))
    assert len(forced) == MAX_OUTPUT_CHARACTERS + 2


def test_a_result_that_the_tokenizer_cannot_encode_is_left_out() -> None:
    without_a_point = CharTokenizer("0123456789/")
    calls = ToolCalls(without_a_point)
    assert feed_all(calls, ids(without_a_point, "{python_start}1/2{python_end}")) == []
    assert len(feed_all(calls, ids(without_a_point, "{python_start}4/2{python_end}"))) == 1


MAX_CALL_TOKENS = 6
TOKENS = [*b"12+*/ ", *BYTE.special_tokens.values(), BYTE.vocab_size, BYTE.vocab_size + 9]
CALLS = st.sampled_from(["1+1", "1/", "12*1+2", "1+1+1+1"]).map(
    lambda t: ids(BYTE, "{python_start}" + t + "{python_end}")
)
SPECIALS = {special(BYTE, "python_start"): "S", special(BYTE, "python_end"): "E"}


@settings(deadline=None)
@given(st.lists(CALLS | st.sampled_from(TOKENS).map(lambda token: [token]), max_size=30), st.booleans())
@example([[*SPECIALS]], True)
def test_any_tokens_give_what_a_regular_expression_finds(parts: list[list[int]], fed_back: bool) -> None:
    tokens = [token for part in parts for token in part]
    text = "".join(chr(token) if token < BYTE.n_ordinary else SPECIALS.get(token, "X") for token in tokens)
    found = list(re.finditer(rf"S([^SEX]{{0,{MAX_CALL_TOKENS}}}+)(.)", text))
    expected = [evaluate(call[1]) for call in found if call[2] == "E" and call[1]]
    calls = ToolCalls(BYTE, max_call_tokens=MAX_CALL_TOKENS)
    answers = []
    for token in tokens:
        if forced := calls.feed(token):
            assert (forced[0], forced[-1]) == (special(BYTE, "output_start"), special(BYTE, "output_end"))
            answers.append(BYTE.decode(forced[1:-1]))
            if fed_back:
                assert feed_all(calls, forced) == []
    assert answers == [answer for answer in expected if answer is not None]
    assert calls.in_call == ("S" in text[found[-1].end() if found else 0 :])
