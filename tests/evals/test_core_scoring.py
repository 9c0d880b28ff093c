"""Forward passes of CORE: questions of any shapes together give what each gives alone."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nanochat_pl.evals.core_prompts import Question
from nanochat_pl.evals.core_scoring import is_right, score_tokens
from tests.models.test_nanochat import SWITCHES, TINY, randomized

CPU = torch.device("cpu")


def numbers(*shape, seed=0):
    return torch.randint(TINY.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("switch", ["as nanochat", "no window", "one key head", "no smear", "alibi"])
@pytest.mark.parametrize(("prefix", "more"), [(1, 4), (4, 1), (5, 6), (17, 5), (30, 9)])
def test_branches_give_what_whole_rows_give(switch, prefix, more):
    model = randomized(dataclasses.replace(TINY, **SWITCHES[switch]))
    prefixes, ids = numbers(3, prefix), numbers(3, 2, more, seed=1)
    whole = torch.cat((prefixes[:, None].expand(3, 2, prefix), ids), dim=2).flatten(0, 1)
    with torch.no_grad():
        cache = model.build_cache(3, prefix + more)
        model(prefixes, cache=cache)
        found = model(ids.flatten(0, 1), cache=cache.branches(2))
        torch.testing.assert_close(found, model(whole)[:, prefix:], rtol=1e-4, atol=1e-4)


def test_the_head_at_chosen_places():
    model, ids = randomized(TINY), numbers(2, 9)
    at = torch.tensor([3, 9, 17])
    torch.testing.assert_close(model(ids, at=at), model(ids).flatten(0, 1)[at])
    assert model(ids, at=at[:0]).shape == (0, TINY.vocab_size)


def questions():
    """Options that share much, little or nothing, of unlike numbers and lengths; some score nothing."""
    made = []
    for seed, (options, shared, own) in enumerate(
        [(2, 20, 3), (4, 21, 1), (3, 1, 5), (2, 0, 6), (4, 19, 2), (2, 300, 4), (1, 12, 0), (5, 40, 7)]
    ):
        begin = numbers(shared, seed=seed).numpy()
        rows = [np.concatenate((begin, numbers(own + i, seed=100 + seed + 10 * i).numpy())) for i in range(options)]
        start = max(1, shared - seed % 2)
        made.append(Question(rows, [(start, len(row)) for row in rows], gold=seed % options))
    twin = numbers(8).numpy()
    made.append(Question([twin, twin, np.append(twin, 5)], [(8, 8), (8, 8), (8, 9)], gold=0))
    return made


def test_questions_of_all_shapes_together_score_as_each_alone():
    model, asked = randomized(TINY), questions()
    with torch.no_grad():
        scores = score_tokens(model, asked, CPU)
        for question, found in zip(asked, scores, strict=True):
            for row, (start, end), losses in zip(question.rows, question.spans, found, strict=True):
                ids = torch.from_numpy(row)
                plain = F.cross_entropy(model(ids[None])[0, :-1], ids[1:], reduction="none")[start - 1 : end - 1]
                torch.testing.assert_close(losses, plain, rtol=1e-4, atol=1e-4)
    assert is_right(asked[-1], scores[-1])  # without a scored token the first option stands, as in nanochat


def test_a_text_is_right_only_if_every_token_is_guessed():
    model = randomized(TINY)
    ids = numbers(1, 7)
    with torch.no_grad():
        for _ in range(3):
            ids = torch.cat((ids, model(ids, last_only=True).argmax(-1)), dim=1)
        row = ids[0].numpy()
        wrong = row.copy()
        wrong[-1] = (wrong[-1] + 1) % TINY.vocab_size
        asked = [Question([text], [(start, 10)], None) for text in (row, wrong) for start in (7, 8, 9)]
        scores = score_tokens(model, asked, CPU)
    assert [is_right(*pair) for pair in zip(asked, scores)] == [True] * 3 + [False] * 3
