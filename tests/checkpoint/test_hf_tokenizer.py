"""Exported tokenizers and chat templates give our ids, on any text and in any conversation."""

import sys
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.checkpoint.hf_export import export_to_hf
from nanochat_pl.checkpoint.hf_tokenizer import ESCAPE, build_hf_tokenizer, last_pair
from nanochat_pl.checkpoint.model_folder import LoadedModel
from nanochat_pl.core.errors import UserError
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.models.contract import build_model
from nanochat_pl.tiny_world import document
from nanochat_pl.tokenizers.base import SPECIAL_TOKENS, Tokenizer
from nanochat_pl.tokenizers.bpe import SPLIT_PATTERN, BPETokenizer
from nanochat_pl.tokenizers.chat import PART_MARKERS, Message, render_conversation, render_for_completion
from nanochat_pl.tokenizers.specs import BPESpec, ByteSpec, CharSpec
from tests.tokenizers.test_tokenizers import NANOCHAT_PATTERN, TRICKY

transformers = pytest.importorskip("transformers")

DOCUMENTS = [document(i) for i in range(300)]
KNOWN = "abc xyz\näß€😀<>|_tosruen" + ESCAPE
TOKENIZERS = {"bpe": BPESpec(900).build(DOCUMENTS), "byte": ByteSpec().build(), "char": CharSpec().build([KNOWN])}
GPT4_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"""
    r"""|\s+(?!\S)|\s"""
)
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
WITH_NAMES = st.lists(st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "<", f"<{ESCAPE}", "a", " "])).map("".join)
ANY_TEXT = st.text() | TRICKY | WITH_NAMES
OF_EVERY_KIND = pytest.mark.parametrize("kind", TOKENIZERS)
_loaded: dict[tuple[str, str], Any] = {}


def exported(kind: str, stage: str, folder: Path) -> Any:
    """The tokenizer as transformers loads it from an exported folder; each is written once."""
    if (kind, stage) not in _loaded:
        tokenizer = TOKENIZERS[kind]
        config = NanoChatConfig(tokenizer.vocab_size, sequence_len=64, n_layer=1, n_head=1, n_kv_head=1, n_embd=8)
        export_to_hf(LoadedModel(build_model(config, "cpu", 0), tokenizer, {}, stage), "runs/test", folder / "out")
        _loaded[kind, stage] = transformers.AutoTokenizer.from_pretrained(folder / "out", trust_remote_code=True)
    return _loaded[kind, stage]


def ids_of(theirs: Any, text: str) -> list[int]:
    return theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def merging_pairs() -> BPETokenizer:
    """Joins an ASCII character with the first byte of the next character, or the last byte of one with an "a".

    So its ids tell where a pattern splits beside any character.
    """
    ranks = {bytes([byte]): byte for byte in range(256)}
    for byte in range(128, 256):
        for pair in (*(f"{c}".encode() + bytes([byte]) for c in "a1! '\n"), bytes([byte]) + b"a"):
            ranks[pair] = len(ranks)
    return BPETokenizer(ranks)


@pytest.mark.parametrize("kind", ["bpe", "byte"])
@settings(deadline=None, max_examples=300)
@given(text=ANY_TEXT)
def test_any_text_has_the_same_ids(kind: str, text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    ours, theirs = TOKENIZERS[kind], exported(kind, "base", tmp_path_factory.getbasetemp() / kind)
    ids = ours.encode(text)
    assert ids_of(theirs, text) == ids
    assert theirs.decode(ids) == text


@settings(deadline=None)
@given(text=st.text(alphabet=KNOWN))
def test_known_characters_have_the_same_ids(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    ours, theirs = TOKENIZERS["char"], exported("char", "base", tmp_path_factory.getbasetemp() / "char")
    assert ids_of(theirs, text) == ours.encode(text)
    assert theirs.decode(ours.encode(text)) == text


def test_unknown_characters_are_errors_there_too(tmp_path: Path) -> None:
    theirs = exported("char", "base", tmp_path)
    with pytest.raises(UserError):
        TOKENIZERS["char"].encode("Q")
    with pytest.raises(Exception, match="UNK"):
        ids_of(theirs, "Q")


@OF_EVERY_KIND
def test_special_tokens_have_their_ids_and_begin_a_text(kind: str, tmp_path: Path) -> None:
    ours, theirs = TOKENIZERS[kind], exported(kind, "base", tmp_path)
    assert len(theirs) == ours.vocab_size
    for name, number in ours.special_tokens.items():
        assert theirs.convert_tokens_to_ids(name) == number
        assert theirs(f"abc{name}abc", add_special_tokens=False)["input_ids"].count(number) == 1
        assert theirs.decode([number, *ours.encode("abc")], skip_special_tokens=True) == "abc"
    assert theirs("abc")["input_ids"] == [ours.bos_id, *ours.encode("abc")]
    padded = theirs(["a", "abc"], padding=True)
    assert padded["input_ids"][0][-2:] == [ours.bos_id, *ours.encode("a")] and padded["attention_mask"][0][0] == 0


@pytest.mark.parametrize("pattern", [NANOCHAT_PATTERN, GPT2_PATTERN, GPT4_PATTERN], ids=["nanochat", "gpt2", "gpt4"])
@settings(deadline=None, max_examples=200)
@given(text=ANY_TEXT)
def test_other_split_patterns_have_the_same_ids(pattern: str, text: str) -> None:
    ours = BPETokenizer(TOKENIZERS["bpe"].ranks, pattern)
    if pattern not in _loaded:
        _loaded[pattern] = build_hf_tokenizer(ours, is_chat=False)
        _loaded[pattern].encode_special_tokens = True
    assert _loaded[pattern].encode(text, add_special_tokens=False).ids == ours.encode(text)


@pytest.mark.parametrize(
    "pattern", [r"\p{L}+", r"(?P<letters>\p{L}+)|[\s\S]"], ids=["leaves out what does not match", "not in this syntax"]
)
def test_a_pattern_that_is_read_in_another_way_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match="cannot be exported"):
        build_hf_tokenizer(BPETokenizer(TOKENIZERS["bpe"].ranks, pattern), is_chat=False)


@pytest.mark.slow
def test_the_patterns_classes_hold_the_same_characters_in_both_engines() -> None:
    ours = merging_pairs()
    assert [len(ours.encode(text)) for text in ("aé", "1é", "a€", "!€")] == [2, 3, 4, 3]  # the classes show
    theirs = build_hf_tokenizer(ours, is_chat=False)
    beyond = range(0x20000, sys.maxunicode + 1, 97)  # planes of ideographs and of nothing, in long rows
    texts = [
        f"a{c}a 1{c} !{c} '{c}a  {c}\n{c}" for c in map(chr, [*range(128, 0xD800), *range(0xE000, 0x20000), *beyond])
    ]
    for text, encoding in zip(texts, theirs.encode_batch(texts, add_special_tokens=False), strict=True):
        assert encoding.ids == ours.encode(text), f"U+{ord(text[1]):X}"


def test_merges_are_the_trained_ones() -> None:
    """rustbpe makes each token of two; the bytes of the token alone lead to the same two."""
    tokenizer = TOKENIZERS["bpe"]
    pairs = {token: last_pair(token, tokenizer.ranks) for token in tokenizer.ranks if len(token) > 1}
    assert len(pairs) == tokenizer.n_ordinary - 256
    for token, pair in pairs.items():
        assert pair is not None and pair[0] + pair[1] == token
        assert max(tokenizer.ranks[pair[0]], tokenizer.ranks[pair[1]]) < tokenizer.ranks[token]


@settings(deadline=None, max_examples=100)
@given(
    tokens=st.lists(st.text("ab ", min_size=2, max_size=6).map(str.encode), max_size=12, unique=True),
    texts=st.lists(st.text("ab ", max_size=40), min_size=20, max_size=20),
)
def test_any_ranks_have_the_same_ids(tokens: list[bytes], texts: list[str]) -> None:
    """Also those that no training would make: tokens of no two others, or of higher ranks."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    ours = BPETokenizer(ranks | {token: 256 + i for i, token in enumerate(tokens)}, r"[\s\S]+")
    theirs = build_hf_tokenizer(ours, is_chat=False)
    for text in texts:
        assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)
        encoding = tiktoken.Encoding("same", pat_str=ours.pattern, mergeable_ranks=ours.ranks, special_tokens={})
        assert ours.encode(text) == encoding.encode_ordinary(text)


def conversations(texts: st.SearchStrategy[str]) -> st.SearchStrategy[list[Message]]:
    """With and without a system message, parts and tool calls; parts of text are never side by side."""
    parts = st.lists(
        st.fixed_dictionaries({"type": st.sampled_from(sorted(PART_MARKERS)), "text": texts}), max_size=5
    ).map(
        lambda parts: [
            part for i, part in enumerate(parts) if i == 0 or {part["type"], parts[i - 1]["type"]} != {"text"}
        ]
    )
    said = texts | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=1)
    turn = st.tuples(said, texts | parts)

    def messages(system: Any, turns: list[tuple[Any, Any]], last: Any) -> list[Message]:
        contents = [("user", last)]
        for asked, answered in reversed(turns):
            contents = [("user", asked), ("assistant", answered), *contents]
        start = [] if system is None else [("system", system)]
        return [{"role": role, "content": content} for role, content in start + contents]

    return st.builds(messages, st.none() | said, st.lists(turn, max_size=3), said)


def check_conversation(kind: str, messages: list[Message], folder: Path) -> None:
    ours, theirs = TOKENIZERS[kind], exported(kind, "sft", folder)
    prompt = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert prompt == render_for_completion(ours, messages)
    answered = [*messages, {"role": "assistant", "content": "abc"}]
    for conversation in (messages, answered):
        whole = theirs.apply_chat_template(conversation, return_dict=True)["input_ids"]
        assert whole == render_conversation(ours, conversation).ids


@pytest.mark.parametrize("kind", ["bpe", "byte"])
@settings(deadline=None, max_examples=150)
@given(messages=conversations(ANY_TEXT))
def test_any_conversation_has_the_same_ids(
    kind: str, messages: list[Message], tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_conversation(kind, messages, tmp_path_factory.getbasetemp() / f"{kind}-chat")


@settings(deadline=None, max_examples=50)
@given(messages=conversations(st.text(alphabet=KNOWN)))
def test_conversations_of_known_characters_have_the_same_ids(
    messages: list[Message], tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_conversation("char", messages, tmp_path_factory.getbasetemp() / "char-chat")


@pytest.mark.parametrize("kind", ["bpe", "byte"])
@settings(deadline=None)
@given(text=ANY_TEXT.filter(lambda text: f"<{ESCAPE}" not in text))
def test_chat_tokenizers_differ_only_in_the_escape(
    kind: str, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    theirs = exported(kind, "sft", tmp_path_factory.getbasetemp() / f"{kind}-chat")
    assert ids_of(theirs, text) == TOKENIZERS[kind].encode(text)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": "first"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
        [{"role": "user", "content": [{"type": "python", "text": "1"}]}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "image", "text": "1"}]}],
    ],
)
def test_what_is_no_conversation_is_refused_there_too(messages: list[Message], tmp_path: Path) -> None:
    theirs: Tokenizer = exported("byte", "sft", tmp_path)
    with pytest.raises(UserError):
        render_conversation(TOKENIZERS["byte"], messages)
    with pytest.raises(Exception, match=r"take turns|parts of type|type of part"):
        theirs.apply_chat_template(messages)


def test_a_base_model_has_no_chat_template(tmp_path: Path) -> None:
    assert exported("byte", "base", tmp_path).chat_template is None
    assert SPLIT_PATTERN in TOKENIZERS["bpe"].pattern
