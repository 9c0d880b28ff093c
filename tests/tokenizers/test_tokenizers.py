"""What holds for every kind of tokenizer: round trips, byte counts, batches, and text that stays text."""

import pickle

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer

from nanochat_pl.core.errors import UserError
from nanochat_pl.tiny_world import document
from nanochat_pl.tokenizers.base import SPECIAL_TOKENS, Tokenizer
from nanochat_pl.tokenizers.bpe import BPETokenizer
from nanochat_pl.tokenizers.hf import HFTokenizer
from nanochat_pl.tokenizers.specs import BPESpec, ByteSpec, CharSpec

NANOCHAT_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"""
)
DOCUMENTS = [document(i) for i in range(300)]
BPE = BPESpec(700).build(DOCUMENTS)
assert isinstance(BPE, BPETokenizer)
PUBLISHED = tiktoken.Encoding("published", pat_str=NANOCHAT_PATTERN, mergeable_ranks=BPE.ranks, special_tokens={})
BYTE = ByteSpec().build()
LIBRARY = ByteLevelBPETokenizer()
LIBRARY.train_from_iterator(DOCUMENTS, 600)
HF = HFTokenizer(LIBRARY.to_str())
CHAR = CharSpec().build(["abc xyz\näß€😀", "".join(SPECIAL_TOKENS)])
OF_ANY_TEXT = pytest.mark.parametrize("tokenizer", [BPE, BYTE, HF], ids=["bpe", "byte", "hf"])
OF_EVERY_KIND = pytest.mark.parametrize("tokenizer", [BPE, BYTE, CHAR, HF], ids=["bpe", "byte", "char", "hf"])
TRICKY = st.text(alphabet=st.sampled_from(list(" \t\n\r\u00a0'’sStTdDmMlLvVrReE<|bos>_a1٣ß.,!😀\u0301")))
"""Texts full of the characters that split patterns treat specially."""


@OF_ANY_TEXT
@settings(deadline=None)
@given(text=st.text() | TRICKY)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes()[ids].sum() == len(text.encode())
    assert all(0 <= i < tokenizer.n_ordinary for i in ids)


@settings(deadline=None)
@given(text=st.text(alphabet="abcxyz äß€😀\n"))
def test_known_characters_come_back(text: str) -> None:
    ids = CHAR.encode(text)
    assert len(ids) == len(text)
    assert CHAR.decode(ids) == text
    assert CHAR.token_bytes()[ids].sum() == len(text.encode())


@OF_ANY_TEXT
@settings(deadline=None)
@given(texts=st.lists(st.text() | TRICKY | st.sampled_from(SPECIAL_TOKENS)), num_threads=st.integers(1, 4))
def test_a_batch_equals_its_texts(tokenizer: Tokenizer, texts: list[str], num_threads: int) -> None:
    batch = tokenizer.encode_batch(texts, num_threads)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in texts]
    assert all(ids.dtype == np.uint16 for ids in batch)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_a_batch_of_documents_equals_its_documents(num_threads: int) -> None:
    batch = BPE.encode_batch(DOCUMENTS, num_threads)
    assert len(batch) == len(DOCUMENTS)
    assert [ids.tolist() for ids in batch] == [BPE.encode(text) for text in DOCUMENTS]


@settings(deadline=None)
@given(text=st.text() | TRICKY)
def test_splits_as_nanochat_does(text: str) -> None:
    assert BPE.encode(text) == PUBLISHED.encode_ordinary(text)


@OF_EVERY_KIND
def test_endless_white_space_comes_back(tokenizer: Tokenizer) -> None:
    text = f"abc{' ' * 1_200_000}abc"
    for ids in (tokenizer.encode(text), tokenizer.encode_batch([text, "abc"])[0]):
        assert tokenizer.decode(ids) == text


def test_endless_white_space_is_trained_on() -> None:
    tokenizer = BPESpec(300).build([*DOCUMENTS, " " * 1_200_000])
    assert tokenizer.decode(tokenizer.encode(" " * 50)) == " " * 50


@OF_EVERY_KIND
def test_text_never_becomes_a_special_token(tokenizer: Tokenizer) -> None:
    text = "".join(SPECIAL_TOKENS)
    special = set(tokenizer.special_tokens.values())
    for ids in (tokenizer.encode(text), tokenizer.encode_batch([text, "abc"])[0].tolist()):
        assert not special & set(ids)
        assert tokenizer.decode(ids) == text


@OF_EVERY_KIND
def test_special_tokens_follow_the_ordinary_ones(tokenizer: Tokenizer) -> None:
    assert list(tokenizer.special_tokens) == list(SPECIAL_TOKENS)
    assert sorted(tokenizer.special_tokens.values()) == list(range(tokenizer.vocab_size - 9, tokenizer.vocab_size))
    assert tokenizer.bos_id == tokenizer.special_tokens["<|bos|>"]
    assert tokenizer.decode([tokenizer.bos_id]) == "<|bos|>"
    lengths = tokenizer.token_bytes()
    assert lengths.shape == (tokenizer.vocab_size,)
    assert not lengths[tokenizer.bos_id :].any()
    assert (lengths[: tokenizer.bos_id] > 0).all()


@OF_EVERY_KIND
def test_an_id_outside_of_the_vocabulary_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=f"id {tokenizer.vocab_size} "):
        tokenizer.decode([0, tokenizer.vocab_size])
    with pytest.raises(UserError, match="id -1 "):
        tokenizer.decode(np.array([-1]))


@OF_EVERY_KIND
def test_a_pickled_tokenizer_works(tokenizer: Tokenizer) -> None:
    other = pickle.loads(pickle.dumps(tokenizer))
    assert other.encode("abc xyz") == tokenizer.encode("abc xyz")
    assert other.fingerprint == tokenizer.fingerprint


def test_a_character_cut_in_the_middle_is_replaced() -> None:
    ids = BYTE.encode("aß")[:-1]
    assert BYTE.decode(ids) == "a�"
    assert BYTE.decode_bytes(ids) == b"a\xc3"


@OF_ANY_TEXT
def test_a_lone_surrogate_is_replaced(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a�b"
    assert tokenizer.decode(tokenizer.encode_batch(["x", "a\ud800b"])[1]) == "a�b"


def test_an_unknown_character_is_named_with_its_place() -> None:
    with pytest.raises(UserError, match=r"'Q' \(U\+0051, line 2, column 3 of the text") as error:
        CHAR.encode("abc\nabQ xyz")
    assert str(CHAR.n_ordinary) in str(error.value)


def test_tinyshakespeare_has_65_characters(test_data) -> None:
    text = (test_data / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    tokenizer = CharSpec().build([text])
    assert tokenizer.vocab_size == 65 + 9
    assert tokenizer.decode(tokenizer.encode_batch([text])[0]) == text
