"""Blocked attention against a softmax over the whole masked matrix of scores."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.nn.attention import BLOCK_TOKENS, attention
from tests.reference.plain_gpt import plain_softmax_attention


def tensors(B, H, H_kv, T, D, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    heads = (H, H_kv, H_kv, H)
    return [torch.randn(B, heads[i], T, D, dtype=dtype, generator=generator) for i in range(4)]


def assert_equal_to_the_plain_one(q, k, v, dy, window, scale, tolerance):
    ours, plain = ([x.clone().requires_grad_() for x in (q, k, v)] for _ in range(2))
    y = attention(*ours, window, scale)
    group = q.size(1) // k.size(1)
    repeated = [x.repeat_interleave(group, dim=1) for x in plain[1:]]
    expected = plain_softmax_attention(plain[0], *repeated, window, q.size(-1) ** -0.5 if scale is None else scale)
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    y.backward(dy)
    expected.backward(dy)
    for a, b in zip(ours, plain):
        torch.testing.assert_close(a.grad, b.grad, rtol=tolerance, atol=tolerance)


@settings(max_examples=40, deadline=None)
@given(
    T=st.integers(1, 2 * BLOCK_TOKENS + 60),
    window=st.none() | st.integers(1, 2 * BLOCK_TOKENS + 60),
    D=st.sampled_from([2, 6, 32]),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]),
    scale=st.sampled_from([None, 0.3]),
)
def test_any_length_and_window_equals_the_masked_matrix(T, window, D, heads, scale):
    assert_equal_to_the_plain_one(*tensors(2, *heads, T, D), window, scale, 1e-11)


@pytest.mark.parametrize("window", [None, 1, BLOCK_TOKENS - 1, BLOCK_TOKENS, BLOCK_TOKENS + 1, 3 * BLOCK_TOKENS])
@pytest.mark.parametrize("T", [BLOCK_TOKENS, 2 * BLOCK_TOKENS + 1, 3 * BLOCK_TOKENS])
def test_block_edges_in_float32(T, window):
    q, k, v, dy = tensors(1, 2, 2, T, 32, dtype=torch.float32)
    assert_equal_to_the_plain_one(q, k, v, dy, window, None, 2e-5)


def test_a_token_sees_its_window_and_itself_and_nothing_else():
    T, window = 300, 70
    q, k, v, _ = tensors(1, 1, 1, T, 8)
    v.requires_grad_()
    attention(q, k, v, window)[0, 0, 250].sum().backward()
    seen = v.grad[0, 0].abs().sum(-1).nonzero().flatten().tolist()
    assert seen == list(range(250 - window, 251))


def test_views_that_are_not_contiguous_are_accepted():
    q, k, v, _ = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors(2, 4, 2, 40, 8))
    dy = torch.randn(2, 4, 8, 40, dtype=torch.float64).transpose(2, 3)
    assert_equal_to_the_plain_one(q, k, v, dy, 9, None, 1e-11)


def test_large_scores_stay_finite():
    q, k, v, _ = tensors(1, 1, 1, 200, 16, dtype=torch.float32)
    q.requires_grad_()
    y = attention(100 * q, 100 * k, v, 50)
    y.sum().backward()
    assert y.isfinite().all() and q.grad.isfinite().all()
