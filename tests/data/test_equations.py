"""Equations by formula: they are true, dealt out once, and only their answers are learned."""

import itertools

import numpy as np
import pytest
import torch

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.types import IGNORE_INDEX
from nanochat_pl.data.equations import AdditionDataSpec, ModularDataSpec
from nanochat_pl.data.sources import read_documents
from nanochat_pl.evals.answer_accuracy import AnswerAccuracy
from nanochat_pl.tokenizers.char import train_char
from nanochat_pl.tokenizers.load import load_tokenizer
from nanochat_pl.tokenizers.word import train_word


@pytest.mark.parametrize("operation", ["+", "-", "*", "/"])
def test_modular_equations_are_true_and_all_there(operation: str) -> None:
    train, val = ModularDataSpec(prime=13, operation=operation, train_fraction=0.3).equations()
    assert len(train) == round(0.3 * len(train + val)) and len({*train, *val}) == len(train + val)
    assert len(train + val) == 13 * (12 if operation == "/" else 13)
    for equation in train + val:
        a, sign, b, equals, c = equation.split()
        assert (sign, equals) == (operation, "=") and 0 <= int(c) < 13
        if operation == "/":
            assert (int(c) * int(b) - int(a)) % 13 == 0
        else:
            assert (eval(f"{a} {operation} {b}") - int(c)) % 13 == 0


def test_sums_are_true_and_held_out_lengths_are_never_trained_on() -> None:
    spec = AdditionDataSpec(train_digits=(1, 3), held_out_digits=(2, 4), train_equations=200, val_equations=30)
    train, val = spec.equations()
    assert not {*train} & {*val}
    lengths = []
    for equations in (train, val):
        parts = [(*equation.split("=")[0].split("+"), equation.split("=")[1]) for equation in equations]
        assert all(int(a) + int(b) == int(c[::-1]) and len(a) == len(b) == len(c) - 1 for a, b, c in parts)
        lengths.append({digits: sum(len(a) == digits for a, _, _ in parts) for digits in range(1, 5)})
    assert lengths == [{1: 80, 2: 0, 3: 200, 4: 0}, {1: 20, 2: 30, 3: 30, 4: 30}]
    assert spec.equations() == (train, val)


def test_only_the_answer_is_a_target_and_each_equation_comes_once_an_epoch() -> None:
    spec = ModularDataSpec(prime=7, train_fraction=0.5, streams=4, buffer_documents=1)
    sources = spec.build_sources()
    tokenizer = train_word(itertools.chain(*map(read_documents, sources)))
    data = spec.build(tokenizer, sequence_len=5, rows_per_step=4, micro_batch_rows=4, seed=1, sources=sources)
    data.check_length()
    batches = list(itertools.islice(data.train_dataloader(), 10))
    inputs, targets = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("inputs", "targets"))
    assert (targets[:, :4] == IGNORE_INDEX).all() and (targets[:, 4] != IGNORE_INDEX).all()
    rows = [tokenizer.decode([*row.tolist(), answer]) for row, answer in zip(inputs, targets[:, 4].tolist())]
    seen = {row.removeprefix("<|bos|>").strip() for row in rows[:20]}
    assert len(seen) == 20 and seen <= {*spec.equations()[0]}
    held_out = sum(int((batch.targets != IGNORE_INDEX).sum()) for batch in data.val_dataloader())
    assert held_out == len(spec.equations()[1])
    everything = ModularDataSpec(prime=7, learned="all").build_sources()[0]
    assert everything.fingerprint != ModularDataSpec(prime=7).build_sources()[0].fingerprint


def test_a_word_tokenizer_comes_back_and_names_the_word_that_it_does_not_know(tmp_path) -> None:
    tokenizer = train_word(["5 / 7 = 20", "12 / 7 = 5"])
    assert tokenizer.words == ["5", "7", "12", "20", "/", "="]
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode(" 12 / 7\n= 5") == [2, 4, 1, 5, 0]
    assert again.decode([2, 4, 1]) == "12 / 7 " and again.token_bytes()[[0, 2]].tolist() == [2, 3]
    assert np.array_equal(again.encode_batch(["5 7"])[0], [0, 1])
    with pytest.raises(UserError, match="'21' is not among the 6"):
        again.encode("21 / 7")
    with pytest.raises(UserError, match="no text"):
        train_word([" "])


def test_an_answer_is_right_where_each_of_its_tokens_is() -> None:
    ignored = IGNORE_INDEX
    targets = torch.tensor([[ignored, 1, 2, ignored, 3], [4, ignored, 5, 6, 7]])
    said = torch.tensor([[9, 1, 2, 9, 9], [4, 9, 5, 9, 7]])
    metric = AnswerAccuracy(longest=2)
    metric.update(torch.nn.functional.one_hot(said, 10).float(), targets)
    metric.update(torch.zeros(2, 5, 10), torch.full((2, 5), ignored))
    share, by_length = metric.compute()
    assert share == 2 / 4  # 1 2 and 4; neither 3 nor 5 6 7
    assert by_length[1:].tolist() == [1 / 2, 1 / 2] and torch.isnan(by_length[0])


def test_greedy_decoding_says_what_counts_as_right() -> None:
    from nanochat_pl.models.config import NanoChatConfig
    from nanochat_pl.models.contract import build_model

    config = NanoChatConfig(vocab_size=32, sequence_len=16, n_layer=2, n_head=2, n_kv_head=2, n_embd=16)
    model, metric = build_model(config, "cpu", 0), AnswerAccuracy()
    ids = torch.randint(32, (1, 5))
    for _ in range(3):
        ids = torch.cat([ids, model.forward(ids)[:, -1:].argmax(-1)], dim=1)
    targets = ids[:, 1:].clone()
    targets[:, :4] = IGNORE_INDEX
    metric.update(model.forward(ids[:, :-1]), targets)
    assert metric.compute()[0] == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ModularDataSpec(prime=91), "data.prime is 91; it must be a prime"),
        (lambda: ModularDataSpec(operation="^"), "data.operation is '\\^'; legal values"),
        (lambda: ModularDataSpec(train_fraction=1.0), "data.train_fraction is 1.0"),
        (lambda: ModularDataSpec(packing="windows"), "equations are packed whole or best_fit"),
        (lambda: AdditionDataSpec(held_out_digits=(3, 4)), "the length 3, which data.train_digits has too"),
        (lambda: AdditionDataSpec(train_digits=()), "data.train_digits needs a length"),
        (lambda: AdditionDataSpec(val_equations=0), "data.val_equations is 0"),
    ],
)
def test_mistakes(make, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


def test_characters_serve_sums() -> None:
    spec = AdditionDataSpec(train_digits=(1,), held_out_digits=(2,), val_equations=10)
    sources = spec.build_sources()
    tokenizer = train_char(itertools.chain(*map(read_documents, sources)))
    assert tokenizer.characters == "+0123456789="
