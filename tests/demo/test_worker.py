"""What a worker does with its models: load, go on with a newer export, forget, cancel."""

import multiprocessing
from pathlib import Path

import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.demo import worker
from nanochat_pl.demo.worker import HeldModels, NewToken, Submit
from nanochat_pl.inference.sampling import Sampling
from tests.demo.served_models import ALPHABET, LETTERS, SUM, TOKENIZER, alphabet, save_model, token_id

BACKWARDS = {letter: before for before, letter in zip(LETTERS, LETTERS[1:] + LETTERS[0])} | {"<|bos|>": "z"}


@pytest.fixture
def models() -> HeldModels:
    return HeldModels("cpu", "float32", max_rows=4)


def text_of(answered: list[NewToken]) -> str:
    return TOKENIZER.decode([token.id for token in answered if token.id is not None])


def submit(models: HeldModels, folder: Path, *keys: int, prompt: str = "", max_new_tokens: int = 5, **options) -> None:
    ids = [TOKENIZER.bos_id, *TOKENIZER.encode(prompt)]
    models.submit(
        Submit(keys, folder, ids, Sampling(max_new_tokens=max_new_tokens, temperature=0), **{"tools": False} | options)
    )


def drained(models: HeldModels) -> dict[int, list[NewToken]]:
    """All tokens until nothing is left to do, by key."""
    answers: dict[int, list[NewToken]] = {}
    while models.busy:
        for token in models.step()[0]:
            answers.setdefault(token.key, []).append(token)
    return answers


def test_answers_of_several_models_come_under_their_keys(tmp_path: Path, models: HeldModels) -> None:
    save_model(tmp_path / "a", ALPHABET, 64)
    save_model(tmp_path / "b", BACKWARDS, 64)
    submit(models, tmp_path / "a", 7, prompt="k")
    submit(models, tmp_path / "b", 9, 8, prompt="k")
    answers = drained(models)
    assert {key: text_of(tokens) for key, tokens in answers.items()} == {7: "lmnop", 8: "jihgf", 9: "jihgf"}
    assert all(tokens[-1].finish == "length" for tokens in answers.values())


def test_tools_are_run_where_they_are_asked_for(tmp_path: Path, models: HeldModels) -> None:
    save_model(tmp_path / "s", SUM, 64)
    prompt = [TOKENIZER.bos_id, token_id("<|assistant_start|>")]
    sampling = Sampling(max_new_tokens=20, temperature=0, stop_ids=(token_id("<|assistant_end|>"),))
    models.submit(Submit((1,), tmp_path / "s", prompt, sampling, tools=True))
    answer = drained(models)[1]
    assert [TOKENIZER.decode([token.id]) for token in answer if token.forced and token.id is not None] == [
        "<|output_start|>", "3", "<|output_end|>",
    ]  # fmt: skip
    assert answer[-1].finish == "stop"


def test_a_newer_export_answers_while_the_older_one_finishes(tmp_path: Path, models: HeldModels) -> None:
    folder = tmp_path / "a"
    save_model(folder, ALPHABET, 64)
    submit(models, folder, 1, prompt="k", max_new_tokens=6)
    begun = models.step()[0]
    save_model(folder, BACKWARDS, 64, step=2)
    submit(models, folder, 2, prompt="k")
    answers = drained(models)
    assert text_of(answers[2]) == "jihgf"
    assert text_of(begun + answers[1]) == alphabet("k", 6)


def test_a_damaged_newer_export_does_not_end_the_service(tmp_path: Path, models: HeldModels) -> None:
    folder = tmp_path / "a"
    save_model(folder, ALPHABET, 64)
    models.load(folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    submit(models, folder, 1, prompt="k")
    assert text_of(drained(models)[1]) == "lmnop"
    with pytest.raises(UserError, match="damaged"):
        HeldModels("cpu", "float32", 4).load(folder)
    with pytest.raises(UserError, match="incomplete"):
        models.load(tmp_path / "nothing")


def test_the_models_used_last_are_kept(tmp_path: Path, models: HeldModels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MAX_MODELS", 2)
    for name in "abc":
        save_model(tmp_path / name, ALPHABET, 64)
    held = {name: models.load(tmp_path / name) for name in "ab"}
    assert models.load(tmp_path / "a") is held["a"]
    models.load(tmp_path / "c")
    assert models.load(tmp_path / "a") is held["a"] and models.load(tmp_path / "b") is not held["b"]
    submit(models, tmp_path / "a", 1)
    held["a"] = models.load(tmp_path / "a")
    for name in "bc":
        models.load(tmp_path / name)
    assert models.load(tmp_path / "a") is held["a"], "one with an answer under way is kept"


def test_cancelled_answers_say_nothing_more(tmp_path: Path, models: HeldModels) -> None:
    save_model(tmp_path / "a", ALPHABET, 64)
    submit(models, tmp_path / "a", 1, 2, 3, prompt="k", max_new_tokens=20)
    models.step()
    models.cancel((1, 3, 99))
    assert drained(models).keys() == {2}
    submit(models, tmp_path / "a", 4, prompt="k", max_new_tokens=20)
    models.cancel((4,))
    assert not models.busy


def test_tokens_are_sent_together_but_first_and_last_ones_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = multiprocessing.Pipe()
    outbox = worker.Outbox(theirs)
    monkeypatch.setattr(worker, "SECONDS_BETWEEN_MESSAGES", 1000)

    def sent(*tokens: NewToken) -> list[tuple[int, int | None]]:
        outbox.add(list(tokens))
        return [(token.key, token.id) for token in ours.recv()] if ours.poll() else []

    def token(key: int, id: int | None, finish: str | None = None) -> NewToken:
        return NewToken(key, id, False, None, finish)

    assert sent(token(1, 10)) == [(1, 10)]
    assert sent(token(1, 11)) == [] == sent(token(1, 12))
    assert sent(token(1, 13), token(2, 20)) == [(1, 11), (1, 12), (1, 13), (2, 20)]
    assert sent(token(1, 14)) == []
    assert sent(token(1, None, "stop"), token(2, 21)) == [(1, 14), (1, None), (2, 21)]
    assert sent(token(2, 22)) == []
    monkeypatch.setattr(worker, "SECONDS_BETWEEN_MESSAGES", -1)
    assert sent(token(2, 23)) == [(2, 22), (2, 23)]
    assert sent() == []
    monkeypatch.setattr(worker, "SECONDS_BETWEEN_MESSAGES", 1000)
    outbox.forget((2,))
    assert sent(token(2, 24)) == [(2, 24)], "a key that is cancelled is not remembered"


def test_a_model_that_fails_takes_only_its_own_answers_with_it(tmp_path: Path, models: HeldModels) -> None:
    for name in "ab":
        save_model(tmp_path / name, ALPHABET, 64)
        submit(models, tmp_path / name, ord(name), prompt="k")
    del models.load(tmp_path / "b").engine.model.head
    answered, failed = models.step()
    assert failed == (ord("b"),)
    assert text_of(answered) + text_of(drained(models)[ord("a")]) == "lmnop"
    submit(models, tmp_path / "b", 5, prompt="k")
    assert text_of(drained(models)[5]) == "lmnop", "it is loaded anew"
