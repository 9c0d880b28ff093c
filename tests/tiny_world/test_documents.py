"""The corpus as a whole: repeatable, without repeats, and with a held-out split that shares no sentence."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_pl.tiny_world import KINDS, document, sentences, split_of
from nanochat_pl.tokenizers.specs import BPESpec

TRAIN = [document(i) for i in range(15_000)]
VAL = [document(i, "val") for i in range(1_500)]


def test_no_held_out_sentence_occurs_in_training() -> None:
    train = {sentence for text in TRAIN for sentence in sentences(text)}
    val = {sentence for text in VAL for sentence in sentences(text)}
    assert len(train) > 50_000
    assert len(val) > 5_000
    assert not train & val
    assert all(split_of(sentence) == "train" for sentence in train)
    assert all(split_of(sentence) == "val" for sentence in val)


def test_no_line_and_no_stretch_between_full_stops_is_shared() -> None:
    """The same, with cruder rules of what a sentence is than the generator's own; short names and numbers aside."""
    for cut in ("\n", ". "):
        train = {part.strip() for text in TRAIN for part in text.split(cut)}
        shared = {part.strip() for text in VAL for part in text.split(cut)} & train
        assert not {part for part in shared if len(part) > 12}


def test_no_document_is_repeated() -> None:
    assert len(set(TRAIN)) == len(TRAIN)
    assert len(set(VAL)) == len(VAL)


@pytest.mark.slow
def test_twenty_million_tokens_without_a_repeated_document() -> None:
    tokenizer = BPESpec(1024).build(TRAIN[:5000])
    seen, tokens = set(), 0
    for start in range(0, 1_000_000, 1000):
        texts = [document(i) for i in range(start, start + 1000)]
        seen |= {hashlib.md5(text.encode()).digest() for text in texts}
        assert len(seen) == start + 1000
        tokens += sum(map(len, tokenizer.encode_batch(texts)))
        if tokens >= 20_000_000:
            return
    raise AssertionError(f"only {tokens} tokens")


def test_documents_are_the_same_in_any_order_and_process() -> None:
    assert [document(i) for i in (77, 3, 77)] == [TRAIN[77], TRAIN[3], TRAIN[77]]
    assert document(3, "val") != document(3, "train")
    program = "from nanochat_pl.tiny_world import document; print(document(5), document(5, 'val'), sep='|', end='')"
    for seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert out == f"{TRAIN[5]}|{VAL[5]}"


def test_a_far_document_is_made_at_once() -> None:
    assert document(10**12)
    assert document(10**12, "val")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_exists_in_both_splits(kind: str) -> None:
    texts = {document(i, split, kind) for i in range(20) for split in ("train", "val")}
    assert len(texts) == 40


def test_lengths() -> None:
    tokenizer = BPESpec(1024).build(TRAIN[:5000])
    lengths = sorted(map(len, tokenizer.encode_batch(TRAIN)))
    assert 90 < sum(lengths) / len(lengths) < 180
    assert lengths[len(lengths) // 100] >= 28
    assert lengths[-len(lengths) // 100] <= 400
    assert lengths[0] >= 15
    assert lengths[-1] <= 600


def test_what_ends_a_sentence() -> None:
    text = 'One. "Two?" asked Tom. Is it 3? Yes!\n- four\n\nA: five. "Six," said Mia. 7 is odd.'
    assert sentences(text) == [
        "One.", '"Two?" asked Tom.', "Is it 3?", "Yes!", "- four", "A: five.", '"Six," said Mia.', "7 is odd.",
    ]  # fmt: skip
