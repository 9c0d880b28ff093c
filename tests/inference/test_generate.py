"""The engine against the plain way: the whole sequence again for every token."""

import dataclasses
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.core.errors import UserError
from nanochat_pl.inference import engine as engine_module
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.generate import generate
from nanochat_pl.inference.sampling import Sampling
from tests.models.test_nanochat import SWITCHES, TINY, randomized

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], [9], [2, 7, 1, 8, 2, 8, 1], [4, 4]]


def greedy(new_tokens: int, **values: Any) -> Sampling:
    return Sampling(max_new_tokens=new_tokens, temperature=0.0, **values)


def greedy_from_scratch(model, prompt, new_tokens):
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(new_tokens):
            ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    return ids[len(prompt) :]


def many_prompts(count: int, longest: int) -> list[list[int]]:
    choice = random.Random(1)
    return [[choice.randrange(70) for _ in range(choice.randint(1, longest))] for _ in range(count)]


@pytest.mark.parametrize("switch", SWITCHES)
def test_greedy_equals_the_full_forward_for_prompts_of_different_lengths(switch):
    model = randomized(dataclasses.replace(TINY, **SWITCHES[switch]))
    expected = [greedy_from_scratch(model, prompt, 10) for prompt in PROMPTS]
    assert len({tuple(row) for row in expected}) > 1
    assert generate(model, PROMPTS, greedy(10)) == expected
    assert [generate(model, [prompt], greedy(10))[0] for prompt in PROMPTS] == expected


def test_thirty_two_prompts_at_once_some_longer_than_the_windows_and_the_context():
    model = randomized(TINY)
    prompts = many_prompts(32, 40)
    assert max(map(len, prompts)) > TINY.sequence_len > TINY.short_window
    expected = [greedy_from_scratch(model, prompt, 8) for prompt in prompts]
    assert generate(model, prompts, greedy(8)) == expected


@pytest.mark.parametrize("switch", ["as nanochat", "alibi", "alibi of six odd heads that see further"])
def test_generation_goes_beyond_the_trained_context_and_leaves_the_model_trainable(switch):
    model = randomized(dataclasses.replace(TINY, **SWITCHES[switch]))
    new_tokens = 2 * TINY.sequence_len + 5
    assert generate(model, PROMPTS[:2], greedy(new_tokens)) == [
        greedy_from_scratch(model, prompt, new_tokens) for prompt in PROMPTS[:2]
    ]
    ids = torch.randint(TINY.vocab_size, (2, TINY.sequence_len))
    model(ids, ids).backward()
    assert model.embedding.weight.grad.abs().sum() > 0


class Watched(Engine):
    """Counts what happens inside."""

    preempted = reused = 0

    def _make_room(self, length):
        rows = len(self._rows)
        super()._make_room(length)
        self.preempted += rows - len(self._rows)

    def _admit(self):
        before = len(self._rows)
        super()._admit()
        self.reused += sum(row.cached for row in self._rows[before:])


class Echo:
    """Forces the same token and a 1 after each of the given ones."""

    def __init__(self, when: set[int]):
        self.when = when

    def feed(self, token: int) -> list[int]:
        return [token, 1] if token in self.when else []


def alone(model, prompt: list[int], sampling: Sampling, draws: int, when: set[int]) -> list[list[Any]]:
    """Answers by an engine that does nothing else, and never has too little room."""
    engine = Engine(model, max_rows=draws, reuse=False)
    requests = engine.submit(prompt, sampling, [Echo(when) for _ in range(draws)], num_samples=draws)
    answers: dict[int, list[Any]] = {request: [] for request in requests}
    for token in engine.run():
        answers[token.request].append(token[1:3])
    return list(answers.values())


def test_requests_join_and_leave_between_steps():
    """Any arrivals, chunk sizes, bounds on rows and cache, reuse or not, tools, many draws: the tokens are the same."""
    model = randomized(dataclasses.replace(TINY, sequence_len=48))
    seen = {"preempted": 0, "reused": 0, "forced": 0, "cancelled": 0}

    @settings(max_examples=14, deadline=None, derandomize=True)
    @given(st.data())
    def any_order(data):
        prompts = [prompt for prompt in many_prompts(4, 40) for _ in range(data.draw(st.integers(1, 3)))]
        prompts = [prompt[: data.draw(st.integers(1, 40))] for prompt in prompts]
        rows, cache_tokens = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([48, 60, 100, 1000]))
        engine = Watched(model, rows, cache_tokens, reuse=data.draw(st.booleans()))
        waiting = [
            (
                prompt,
                Sampling(data.draw(st.integers(0, 20)), data.draw(st.sampled_from([0.0, 1.0])), seed=seed),
                draws,
                when,
            )
            for seed, prompt in enumerate(prompts)
            for draws in [data.draw(st.integers(1, 3))]
            for when in [set(range(0, 70, data.draw(st.sampled_from([7, 100]))))]
        ]
        expected: dict[int, list[Any]] = {}
        answers: dict[int, list[Any]] = {}
        cancelled = set()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine_module, "PREFILL_TOKENS", data.draw(st.integers(1, 9)))
            while waiting or engine.busy:
                for _ in range(data.draw(st.integers(0, 3)) if engine.busy else 1):
                    if waiting:
                        prompt, sampling, draws, when = waiting.pop(0)
                        requests = engine.submit(prompt, sampling, [Echo(when) for _ in range(draws)], draws)
                        answers |= {request: [] for request in requests}
                        expected |= zip(requests, alone(model, prompt, sampling, draws, when))
                if answers and data.draw(st.integers(0, 20)) == 0:
                    request = data.draw(st.sampled_from(sorted(answers)))
                    engine.cancel(request)
                    cancelled.add(request)
                for token in engine.step():
                    answers[token.request].append(token[1:3])
        for request, tokens in answers.items():
            if request in cancelled:
                assert tokens == expected[request][: len(tokens)]
            else:
                assert tokens == expected[request]
        seen["preempted"] += engine.preempted
        seen["reused"] += engine.reused
        seen["forced"] += sum(forced for tokens in answers.values() for _, forced in tokens)
        seen["cancelled"] += len(cancelled)

    any_order()
    assert min(seen.values()) > 0, seen


def test_a_full_cache_sends_the_youngest_away_and_brings_it_back():
    model = randomized(dataclasses.replace(TINY, sequence_len=128))
    engine, prompts = Watched(model, max_rows=4, cache_tokens=256), [prompt * 5 for prompt in PROMPTS]
    assert engine.generate(prompts, greedy(30)) == [greedy_from_scratch(model, prompt, 30) for prompt in prompts]
    assert engine.preempted > 0


def test_a_short_text_finds_room_again_after_a_long_one():
    model = randomized(dataclasses.replace(TINY, sequence_len=128))
    engine = Engine(model, max_rows=4, cache_tokens=128)
    engine.generate([[1] * 100], greedy(20))
    requests = [engine.submit(prompt, greedy(8))[0] for prompt in PROMPTS]
    together = 0
    for _ in range(6):
        together = max(together, len({token.request for token in engine.step()}))
    assert together == 4 and requests


def test_a_long_prompt_is_not_overtaken_by_those_that_come_later(monkeypatch):
    monkeypatch.setattr(engine_module, "PREFILL_TOKENS", 4)
    engine = Engine(randomized(dataclasses.replace(TINY, sequence_len=128)), max_rows=3)
    (first,) = engine.submit([5] * 100, greedy(1))
    for step in range(26):
        engine.submit([step], greedy(2))
        if first in {token.request for token in engine.step()}:
            return
    raise AssertionError("100 tokens in chunks of 4 take 25 steps")


def test_many_answers_to_one_prompt_read_it_once(monkeypatch):
    model = randomized(TINY)
    read = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda ids, **more: read.append(ids.numel()) or forward(ids, **more))
    engine = Engine(model, max_rows=8)
    requests = engine.submit(PROMPTS[0], Sampling(9, seed=3), num_samples=6)
    answers = {request: [] for request in requests}
    for token in engine.run():
        answers[token.request].append(token.id)
    assert read == [len(PROMPTS[0])]
    assert len({tuple(answer) for answer in answers.values()}) > 3
    alone = Engine(model)
    (first,) = alone.submit(PROMPTS[0], Sampling(9, seed=3))
    assert [token.id for token in alone.run()] == answers[requests[0]] and first == 0


def test_more_answers_than_rows():
    model = randomized(TINY)
    engine = Engine(model, max_rows=2)
    requests = engine.submit(PROMPTS[0], greedy(5), num_samples=5)
    answers = {request: [] for request in requests}
    for token in engine.run():
        answers[token.request].append(token.id)
    assert set(map(tuple, answers.values())) == {tuple(greedy_from_scratch(model, PROMPTS[0], 5))}


def test_the_next_turn_of_a_chat_goes_on_from_its_cache(monkeypatch):
    model, engine = (randomized(dataclasses.replace(TINY, window_pattern="L"))), None
    engine = Engine(model, max_rows=2)
    read = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda ids, **more: read.append(ids.numel()) or forward(ids, **more))
    first = engine.generate([PROMPTS[2]], greedy(4))[0]
    engine.generate([[PROMPTS[2][0], 8, 8]], greedy(2))  # another chat, which begins with the same token
    turn = [*PROMPTS[2], *first, 5, 6]
    read.clear()
    answer = engine.generate([turn], greedy(4))[0]
    assert read == [3]  # the last sampled token of the turn before, and the two new ones
    monkeypatch.undo()
    assert answer == greedy_from_scratch(model, turn, 4)
    edited = [*PROMPTS[2][:5], 9, 9]
    assert engine.generate([edited], greedy(4))[0] == greedy_from_scratch(model, edited, 4)


def test_forced_tokens_are_read_and_marked():
    model = randomized(TINY)
    free = greedy_from_scratch(model, PROMPTS[0], 6)
    engine = Engine(model)
    engine.submit(PROMPTS[1], greedy(12))
    (request,) = engine.submit(PROMPTS[0], greedy(6), tools=[Echo({free[2]})])
    tokens = [token for token in engine.run() if token.request == request]
    ids, expected = [token.id for token in tokens], list(PROMPTS[0])
    sampled = 0
    while sampled < 6:
        expected += greedy_from_scratch(model, expected, 1)
        sampled += 1
        if expected[-1] == free[2]:
            expected += [free[2], 1]
    assert ids == expected[len(PROMPTS[0]) :]
    assert [token.id for token in tokens if not token.forced].count(free[2]) * 2 == sum(t.forced for t in tokens) > 0
    assert tokens[-1].finish == "length" and not any(token.finish for token in tokens[:-1])


@pytest.mark.parametrize("pieces", [[5, 7], [1, 4, 7], [11, 1], [3, 3, 3, 3], [12]])
@pytest.mark.parametrize("switch", ["as nanochat", "alibi"])
def test_a_sequence_fed_in_pieces_gives_the_same_logits(pieces, switch):
    model = randomized(dataclasses.replace(TINY, **SWITCHES[switch]))
    ids = torch.randint(TINY.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cache = model.build_cache(2, 12)
        logits = torch.cat([model(piece, cache=cache) for piece in ids.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(logits, model(ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("switch", ["as nanochat", "alibi", "no positions"])
def test_rows_of_different_lengths_go_on_together(switch):
    model = randomized(dataclasses.replace(TINY, **SWITCHES[switch]))
    rows = [[1, 2, 3, 4, 5, 6], [7, 8], [9] * 11]
    with torch.no_grad():
        for decode in (lambda ids, cache: model(ids, cache=cache), model.build_decoder()):
            cache = model.build_cache(3, 24)
            for i, row in enumerate(rows):
                model(torch.tensor([row]), cache=cache.rows(i, i + 1))
            assert cache.lengths == [6, 2, 11]
            for new in ([9, 6, 3], [8, 5, 2]):
                rows = [[*row, token] for row, token in zip(rows, new)]
                logits = decode(torch.tensor(new)[:, None], cache.rows(0, 3))
                for i, row in enumerate(rows):
                    expected = model(torch.tensor([row]))[0, -1:]
                    torch.testing.assert_close(logits[i], expected, rtol=1e-4, atol=1e-5)
            rows = [row[:-2] for row in rows]


@pytest.mark.parametrize("switch", ["as nanochat", "no window", "no smear", "alibi", "no positions"])
def test_work_that_can_be_captured_gives_the_same_logits(switch):
    """Without a GPU: the same tensors' work again and again, with only positions and ids changed in place."""
    model = randomized(dataclasses.replace(TINY, **SWITCHES[switch]))
    rows = [[1, 2, 3, 4, 5, 6], [7], [9] * 11]
    caches = [model.build_cache(3, 24) for _ in range(2)]
    with torch.inference_mode():
        for cache in caches:
            for i, row in enumerate(rows):
                model(torch.tensor([row]), cache=cache.rows(i, i + 1))
        plain, captured = caches
        positions = torch.tensor(captured.lengths)
        for new in ([9, 6, 3], [8, 5, 2], [1, 1, 1]):
            ids = torch.tensor(new)[:, None]
            positions.copy_(torch.tensor(captured.lengths))
            for _ in range(2):  # as often as one likes
                logits = model(ids, cache=captured.at(positions))
            captured.advance(ids)
            torch.testing.assert_close(logits, model(ids, cache=plain), rtol=1e-4, atol=1e-5)
        assert captured.lengths == plain.lengths == [9, 4, 14]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_decoding_gives_the_tokens_of_the_full_forward():
    model = randomized(TINY).cuda()
    model.init_buffers()
    prompts = many_prompts(9, 30)
    expected = generate(randomized(TINY), prompts, greedy(40))
    assert Engine(model, max_rows=4).generate(prompts, greedy(40)) == expected


def test_a_row_stops_at_a_stop_id_and_the_others_go_on():
    model = randomized(TINY)
    free = generate(model, PROMPTS, greedy(10))
    stop = free[0][3]
    stopped = generate(model, PROMPTS, greedy(10, stop_ids=(stop,)))
    assert stopped == [row[: row.index(stop)] if stop in row else row for row in free]
    engine = Engine(model)
    engine.submit(PROMPTS[0], greedy(10, stop_ids=(stop,)))
    assert [token.finish for token in engine.run()] == [None] * len(stopped[0]) + ["stop"]


def test_a_cancelled_answer_frees_its_row():
    model = randomized(TINY)
    engine = Engine(model, max_rows=2)
    requests = [engine.submit(prompt, greedy(12))[0] for prompt in PROMPTS]
    answers: dict[int, list[int]] = {request: [] for request in requests}
    for _ in range(3):
        for token in engine.step():
            answers[token.request].append(token.id)
    engine.cancel(requests[0])
    engine.cancel(requests[3])
    for token in engine.run():
        answers[token.request].append(token.id)
    assert len(answers[requests[0]]) < 12 and not answers[requests[3]]
    for i in (1, 2):
        assert answers[requests[i]] == greedy_from_scratch(model, PROMPTS[i], 12)


def test_an_answer_does_not_depend_on_what_is_drawn_beside_it():
    model = randomized(TINY)
    settings_of = [Sampling(15, seed=seed, top_k=top_k) for seed, top_k in ((0, None), (1, 5), (0, 9), (7, None))]
    alone = []
    for prompt, sampling in zip(PROMPTS, settings_of):
        engine = Engine(model)
        engine.submit(prompt, sampling)
        alone.append([token.id for token in engine.run()])
    engine = Engine(model, max_rows=3)
    requests = [engine.submit(prompt, sampling)[0] for prompt, sampling in zip(PROMPTS, settings_of)]
    together: dict[int, list[Any]] = {request: [] for request in requests}
    for token in engine.run():
        together[token.request].append(token.id)
    assert list(together.values()) == alone
    assert generate(model, PROMPTS, Sampling(20)) == generate(model, PROMPTS, Sampling(20))
    assert generate(model, PROMPTS, Sampling(20)) != generate(model, PROMPTS, Sampling(20, seed=1))


@pytest.mark.parametrize(
    ("prompt", "values", "said"),
    [([], {}, "BOS"), ([1, 70], {}, "from 1 to 70"), ([-1], {}, "from -1"), ([1], {"num_samples": 0}, "at least 1")],
)
def test_impossible_requests_are_the_users_errors(prompt, values, said):
    with pytest.raises(UserError, match=said):
        Engine(randomized(TINY)).submit(prompt, Sampling(10), **values)
