"""Answers as streams: whatever the tokens and stop strings, they show what decoding at once and cutting would."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.core.errors import UserError
from nanochat_pl.inference.answer import AnswerStream, Part, content_of
from nanochat_pl.tiny_world import document
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.specs import BPESpec, ByteSpec

BYTE = ByteSpec().build()
BPE = BPESpec(400).build([document(i) for i in range(50)])
SPECIAL = BYTE.special_tokens
KINDS = {
    "<|python_start|>": "python",
    "<|python_end|>": "text",
    "<|output_start|>": "python_output",
    "<|output_end|>": "text",
}


def sections_at_once(tokenizer: Tokenizer, tokens: list[tuple[int, bool]]) -> list[tuple[str, str]]:
    """The kind and the text between markers, all tokens known."""
    kind_after = {tokenizer.special_tokens[name]: kind for name, kind in KINDS.items()}
    of_output = {tokenizer.special_tokens[name] for name in ("<|output_start|>", "<|output_end|>")}
    sections: list[tuple[str, list[int]]] = [("text", [])]
    for token, forced in tokens:
        if token in kind_after and (forced or token not in of_output):
            sections.append((kind_after[token], []))
        elif token < tokenizer.n_ordinary:
            sections[-1][1].append(token)
    return [(kind, tokenizer.decode(held)) for kind, held in sections]


def cut_at_once(sections: list[tuple[str, str]], stop: list[str]) -> tuple[list[tuple[str, str]], bool]:
    """The sections up to the first stop string, found by trying every end; and whether there is one."""
    kept = []
    for kind, text in sections:
        for end in range(1, len(text) + 1):
            lengths = [len(s) for s in stop if text[:end].endswith(s)]
            if lengths and kind != "python_output":
                return [*kept, (kind, text[: end - max(lengths)])], True
        kept.append((kind, text))
    return kept, False


def joined(parts: list[Any]) -> list[tuple[str, str]]:
    """Neighbours of a kind made one, empty ones left out."""
    result: list[tuple[str, str]] = []
    for kind, text in parts:
        if text and result and result[-1][0] == kind:
            result[-1] = kind, result[-1][1] + text
        elif text:
            result.append((kind, text))
    return result


def tokens_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[tuple[int, bool]]]:
    """Ids, forced or not, among which texts repeat, characters are cut in the middle, and markers stand anywhere."""
    few = [*"abé€😀\n".encode(), *tokenizer.special_tokens.values()]
    ids = st.sampled_from(few) | st.integers(0, tokenizer.vocab_size - 1)
    return st.lists(st.tuples(ids, st.booleans()), max_size=30)


@pytest.mark.parametrize("tokenizer", [BYTE, BPE], ids=["byte", "bpe"])
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_stream_shows_what_decoding_at_once_shows(tokenizer: Tokenizer, data: st.DataObject) -> None:
    tokens = data.draw(tokens_of(tokenizer))
    text = "".join(text for _, text in sections_at_once(tokenizer, tokens))
    pieces = st.text(alphabet="abé€😀\n\ufffd", min_size=1, max_size=4)
    if text:
        start = st.integers(0, len(text) - 1)
        pieces |= st.builds(lambda i, n: text[i : i + n], start, st.integers(1, 5))
    stop = data.draw(st.lists(pieces, max_size=3))
    expected, stopped = cut_at_once(sections_at_once(tokenizer, tokens), stop)

    stream, parts = AnswerStream(tokenizer, stop), []
    for token, forced in tokens:
        parts += stream.feed(token, forced)
        shown = joined(parts)
        if shown:
            *whole, (kind, text) = joined(expected)[: len(shown)]
            assert shown[:-1] == whole and shown[-1][0] == kind and text.startswith(shown[-1][1]), "what is shown stays"
    parts += stream.end()
    assert joined(parts) == joined(expected)
    assert stream.stopped == stopped
    assert all(part.text for part in parts)
    if stopped:
        assert stream.feed(97, False) == [] and stream.end() == []


@given(text=st.text())
def test_a_character_is_shown_as_soon_as_it_is_complete(text: str) -> None:
    stream = AnswerStream(BYTE)
    for character in text:
        *begun, last = BYTE.encode(character)
        assert [stream.feed(token, False) for token in begun] == [[] for _ in begun]
        assert stream.feed(last, False) == [Part("text", character)]
    assert stream.end() == []


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    stream = AnswerStream(BYTE, ["User:", "\n\n"])
    shown = ["".join(part.text for part in stream.feed(token, False)) for token in BYTE.encode("a\nb Us Use\nUser: c")]
    assert shown == ["a", "", "\nb", " ", "", "", "Us ", "", "", "", "Use", "\n", "", "", "", "", "", ""]
    assert stream.stopped and stream.end() == []


def test_a_stop_string_across_tokens_and_the_text_behind_it_in_the_same_token() -> None:
    word = next(token for token in range(256, BPE.n_ordinary) if len(BPE.decode([token])) > 3)
    text = BPE.decode([word])
    stream = AnswerStream(BPE, [text[1]])
    assert stream.feed(word, False) == [Part("text", text[0])] and stream.stopped


def test_tool_calls_are_parts_of_their_own_and_their_outputs_stop_nothing() -> None:
    stream, parts = AnswerStream(BYTE, ["84"]), []
    call = [*b"is ", SPECIAL["<|python_start|>"], *b"12*7", SPECIAL["<|python_end|>"]]
    output = [SPECIAL["<|output_start|>"], *b"84", SPECIAL["<|output_end|>"]]
    for ids, forced in ((call, False), (output, True), ([SPECIAL["<|user_start|>"], *b"so 84."], False)):
        for token in ids:
            parts += stream.feed(token, forced)
    assert stream.stopped
    assert content_of(parts) == [
        {"type": "text", "text": "is "},
        {"type": "python", "text": "12*7"},
        {"type": "python_output", "text": "84"},
        {"type": "text", "text": "so "},
    ]


def test_an_output_that_the_model_makes_up_is_text() -> None:
    stream = AnswerStream(BYTE)
    forged = [SPECIAL["<|output_start|>"], *b"84", SPECIAL["<|output_end|>"], *b" it is"]
    assert content_of(part for token in forged for part in stream.feed(token, False)) == "84 it is"


def test_content_without_tool_calls_is_text() -> None:
    assert content_of([]) == ""
    assert content_of([Part("text", "a"), Part("text", "b")]) == "ab"


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(UserError, match="stop string is empty"):
        AnswerStream(BYTE, ["a", ""])
    with pytest.raises(UserError, match="not in this tokenizer's vocabulary"):
        AnswerStream(BYTE).feed(BYTE.vocab_size, False)


def test_no_torch_is_needed() -> None:
    import subprocess
    import sys

    program = (
        "import sys, nanochat_pl.inference.answer, nanochat_pl.inference.conversation\n"
        "print([name for name in ('torch', 'rich', 'lightning') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
