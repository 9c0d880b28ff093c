"""Generation with the cache against the plain way: the whole sequence again for every token."""

import dataclasses

import pytest
import torch

from nanochat_pl.core.errors import UserError
from nanochat_pl.inference.generate import generate, stream
from nanochat_pl.inference.sampling import sample
from tests.models.test_nanochat import SWITCHES, TINY, randomized

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], [9], [2, 7, 1, 8, 2, 8, 1], [4, 4]]


def greedy_from_scratch(model, prompt, new_tokens):
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(new_tokens):
            ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    return ids[len(prompt) :]


@pytest.mark.parametrize("switch", SWITCHES)
def test_greedy_equals_the_full_forward_for_prompts_of_different_lengths(switch):
    model = randomized(dataclasses.replace(TINY, **SWITCHES[switch]))
    expected = [greedy_from_scratch(model, prompt, 10) for prompt in PROMPTS]
    assert len({tuple(row) for row in expected}) > 1
    assert generate(model, PROMPTS, 10, temperature=0) == expected
    assert [generate(model, [prompt], 10, temperature=0)[0] for prompt in PROMPTS] == expected


def test_generation_goes_beyond_the_trained_context_and_leaves_the_model_trainable():
    model = randomized(TINY)
    new_tokens = TINY.sequence_len + 5
    assert generate(model, PROMPTS[:2], new_tokens, temperature=0) == [
        greedy_from_scratch(model, prompt, new_tokens) for prompt in PROMPTS[:2]
    ]
    ids = torch.randint(TINY.vocab_size, (2, TINY.sequence_len))
    model(ids, ids).backward()
    assert model.embedding.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("pieces", [[5, 7], [1, 4, 7], [11, 1], [3, 3, 3, 3]])
def test_a_sequence_fed_in_pieces_gives_the_same_logits(pieces):
    model = randomized(TINY)
    ids = torch.randint(TINY.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cache = model.build_cache(2, 12)
        logits = torch.cat([model(piece, cache=cache) for piece in ids.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(logits, model(ids), rtol=1e-4, atol=1e-5)


def test_rows_of_different_lengths_go_on_by_several_tokens():
    model = randomized(TINY)
    first, second = [1, 2, 3, 4, 5, 6], [7, 8]
    with torch.no_grad():
        cache = model.build_cache(2, 12)
        model(torch.tensor([first, [*second, 0, 0, 0, 0]]), cache=cache, lengths=[6, 2])
        assert cache.lengths == [6, 2]
        logits = model(torch.tensor([[9, 8, 7], [6, 5, 4]]), cache=cache)
        for row, prompt in enumerate(([*first, 9, 8, 7], [*second, 6, 5, 4])):
            torch.testing.assert_close(logits[row], model(torch.tensor([prompt]))[0, -3:], rtol=1e-4, atol=1e-5)


def test_a_row_stops_at_a_stop_id_and_the_others_go_on():
    model = randomized(TINY)
    free = generate(model, PROMPTS, 10, temperature=0)
    stop = free[0][3]
    stopped = generate(model, PROMPTS, 10, temperature=0, stop_ids=(stop,))
    assert stopped == [row[: row.index(stop)] if stop in row else row for row in free]
    assert stopped[0] == free[0][: free[0].index(stop)]
    columns = list(stream(model, PROMPTS[:1], 10, temperature=0, stop_ids=(stop,)))
    assert columns == [[token] for token in stopped[0]]


def test_the_same_seed_draws_the_same_tokens():
    model = randomized(TINY)
    first, again, other = (generate(model, PROMPTS, 20, temperature=1.0, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert all(0 <= token < TINY.vocab_size for row in first for token in row)


def test_what_generates_leaves_inference_mode_between_tokens():
    model = randomized(TINY)
    for column in stream(model, [[1]], 2):
        assert isinstance(column[0], int) and not torch.is_inference_mode_enabled()


def test_sampling_follows_the_probabilities():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).expand(20_000, 4)
    generator = torch.Generator().manual_seed(0)
    for temperature, top_k in ((1.0, None), (0.5, None), (1.0, 2), (2.0, 9)):
        kept = logits[0] / temperature
        if top_k is not None and top_k < 4:
            kept = torch.where(kept >= kept.topk(top_k).values[-1], kept, -torch.inf)
        drawn = sample(logits, temperature, top_k, generator).bincount(minlength=4) / len(logits)
        torch.testing.assert_close(drawn, kept.softmax(0), rtol=0, atol=0.015)
    assert sample(logits[:3], 0, None, None).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(prompts=[[1], []]), "BOS"),
        (dict(prompts=[]), "BOS"),
        (dict(temperature=-1.0), "temperature"),
        (dict(top_k=0), "top_k"),
        (dict(max_new_tokens=-1), "max_new_tokens"),
    ],
)
def test_impossible_requests_are_the_users_errors(arguments, said):
    with pytest.raises(UserError, match=said):
        generate(randomized(TINY), **(dict(prompts=[[1]], max_new_tokens=2) | arguments))
