"""Training: the same text gives the same tokenizer, and a vocabulary that the text does not allow is refused."""

import re

import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.tiny_world import document
from nanochat_pl.tokenizers.specs import BPESpec, CharSpec

DOCUMENTS = [document(i) for i in range(200)]


def test_training_is_repeatable() -> None:
    first, second = (BPESpec(500).build(iter(DOCUMENTS)) for _ in range(2))
    assert first.vocab_size == 500
    assert first.fingerprint == second.fingerprint


def test_a_larger_vocabulary_compresses_better() -> None:
    text = document(9999)
    sizes = [len(BPESpec(vocab_size).build(DOCUMENTS).encode(text)) for vocab_size in (265, 400, 800)]
    assert sizes[0] == len(text.encode())
    assert sizes[0] > 1.4 * sizes[1] > 1.4 * sizes[2]


def test_only_the_first_characters_are_read() -> None:
    limited = BPESpec(300, max_chars=len(DOCUMENTS[0]) + 10).build([DOCUMENTS[0], DOCUMENTS[1][:10] + "§" * 1000])
    assert limited.fingerprint == BPESpec(300).build([DOCUMENTS[0], DOCUMENTS[1][:10]]).fingerprint


def test_the_largest_possible_vocabulary_is_named_and_works() -> None:
    with pytest.raises(UserError, match="allows only") as error:
        BPESpec(5000).build(["one small text, one small text"])
    largest = int(re.search(r"Set vocab_size to (\d+)", str(error.value))[1])
    assert BPESpec(largest).build(["one small text, one small text"]).vocab_size == largest


@pytest.mark.parametrize("vocab_size", [-1, 0, 256, 264, 1 << 40])
def test_an_impossible_vocabulary_size_is_refused(vocab_size: int) -> None:
    with pytest.raises(UserError, match="at least 265"):
        BPESpec(vocab_size)


def test_no_characters_at_all_are_refused() -> None:
    with pytest.raises(UserError, match="max_chars is 0"):
        BPESpec(300, max_chars=0)
    with pytest.raises(UserError, match="no text"):
        CharSpec().build([""])


def test_text_that_utf8_cannot_hold_is_trained_on() -> None:
    tokenizer = BPESpec(270).build(["a\ud800b a\ud800b a\ud800b a\ud800b ab ab ab"])
    assert tokenizer.decode(tokenizer.encode("ab")) == "ab"
