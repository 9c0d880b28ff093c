"""Choosing tokens, against distributions worked out row by row."""

import pytest
import torch

from nanochat_pl.core.errors import UserError
from nanochat_pl.inference.choosing import choose
from nanochat_pl.inference.sampling import Sampling


def expected(logits: torch.Tensor, row: Sampling, before: list[int]) -> torch.Tensor:
    """The distribution of one row, filter by filter."""
    logits = logits.clone().double()
    for token in set(before):
        logits[token] = (
            logits[token] / row.repetition_penalty if logits[token] > 0 else logits[token] * row.repetition_penalty
        )
    order = (logits / row.temperature).softmax(0).argsort(descending=True)
    p = (logits / row.temperature)[order]
    if row.top_k is not None:
        p[row.top_k :] = -torch.inf
    p = p.softmax(0)
    keep = len(p)
    if row.top_p is not None:
        keep = int((p.cumsum(0) < row.top_p).sum()) + 1
    p[keep:] = 0
    if row.min_p is not None:
        p[p < row.min_p * p[0]] = 0
    result = torch.zeros_like(p)
    result[order] = p / p.sum()
    return result


ROWS = [
    Sampling(),
    Sampling(temperature=0.5),
    Sampling(top_k=3),
    Sampling(top_p=0.7),
    Sampling(min_p=0.2),
    Sampling(temperature=2.0, top_k=5, top_p=0.9, min_p=0.05, repetition_penalty=1.5),
    Sampling(repetition_penalty=3.0),
    Sampling(top_k=1000),
    Sampling(top_p=1e-6),
]


@pytest.mark.parametrize("together", [True, False])
def test_draws_follow_the_filtered_probabilities(together: bool) -> None:
    logits = torch.tensor([2.0, 1.5, -1.0, 0.5, 0.0, -0.5, 1.0])
    before = [[0, 2, 2]] * len(ROWS)
    draws, counts = 4000, torch.zeros(len(ROWS), len(logits))
    for i in range(draws):
        u = (i + 0.5) / draws  # evenly over [0, 1)
        if together:
            ids, _ = choose(logits.expand(len(ROWS), -1), ROWS, before, [u] * len(ROWS))
        else:
            ids = [choose(logits[None], [row], before[:1], [u])[0][0] for row in ROWS]
        counts[torch.arange(len(ROWS)), ids] += 1
    for row, count in zip(ROWS, counts):
        torch.testing.assert_close(count.double() / draws, expected(logits, row, before[0]), rtol=0, atol=2e-3)


def test_greedy_rows_and_log_probabilities_among_others() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    rows = [
        Sampling(temperature=0),
        Sampling(logprobs=True, top_k=4),
        Sampling(temperature=0, logprobs=True),
        Sampling(),
    ]
    ids, logprobs = choose(logits, rows, [[]] * 4, [0.3] * 4)
    assert ids[0] == logits[0].argmax() and ids[2] == logits[2].argmax()
    assert logprobs[0] is None and logprobs[3] is None
    assert logprobs[1] == pytest.approx(logits.log_softmax(-1)[1, ids[1]].item(), abs=1e-5)
    assert logprobs[2] == pytest.approx(logits.log_softmax(-1)[2].max().item(), abs=1e-5)
    assert choose(logits, rows, [[]] * 4, [0.9999999] * 4)[0][0] == ids[0]


def test_an_impossible_token_is_never_drawn() -> None:
    logits = torch.full((1, 5), -torch.inf)
    logits[0, 3] = 0.0
    for u in (0.0, 0.5, 1 - 1e-9):
        assert choose(logits, [Sampling()], [[]], [u])[0] == [3]
        assert choose(logits, [Sampling(top_p=0.5)], [[]], [u])[0] == [3]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"min_p": 1.0}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
    ],
)
def test_settings_out_of_range_are_the_users_errors(values: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Sampling(**values)
