"""The lean layers against torch's own and against numerical gradients."""

import pytest
import torch
import torch.nn.functional as F

from nanochat_pl.nn.layers import Linear, relu_squared, rms_norm
from nanochat_pl.nn.position import rotary_tables, rotate_and_normalize


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rms_norm_equals_torchs_with_and_without_gradient(dtype):
    x = normal(3, 5, 24, dtype=dtype).requires_grad_()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    expected = F.rms_norm(x, (24,), eps=torch.finfo(dtype).eps)
    torch.testing.assert_close(rms_norm(x), expected, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        torch.testing.assert_close(rms_norm(x), expected, rtol=tolerance, atol=tolerance)
    assert rms_norm(x).dtype == dtype


def test_rms_norm_of_zeros_is_zero():
    x = torch.zeros(2, 8, requires_grad=True)
    y = rms_norm(x)
    y.sum().backward()
    assert y.abs().max() == 0 and x.grad.isfinite().all()


def test_gradients_equal_numerical_ones():
    x = normal(2, 3, 8).requires_grad_()
    assert torch.autograd.gradcheck(rms_norm, (x,))
    assert torch.autograd.gradcheck(relu_squared, (x,))
    q, k = normal(2, 5, 4, 6).requires_grad_(), normal(2, 5, 2, 6, seed=1).requires_grad_()
    cos, sin = (table.double() for table in rotary_tables(5, 6, 100.0, "cpu"))
    assert torch.autograd.gradcheck(lambda q, k: rotate_and_normalize(q, k, cos, sin), (q, k))


def test_rotated_heads_score_by_their_distance_only():
    cos, sin = (table.double() for table in rotary_tables(50, 16, 10_000.0, "cpu"))
    q, k = (normal(1, 1, 1, 16, seed=seed).expand(1, 50, 1, 16) for seed in (0, 1))
    q, k = rotate_and_normalize(q, k, cos, sin)
    scores = (q @ k.transpose(2, 3))[0, 0]
    for distance in (0, 1, 7):
        along = scores.diagonal(-distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-5, atol=1e-5)
    assert (scores.diagonal(-1)[0] - scores[0, 0]).abs() > 1e-3
    torch.testing.assert_close(q.square().mean(-1), torch.ones(1, 1, 50, dtype=torch.float64), rtol=1e-6, atol=0)


def test_rotation_without_gradient_is_the_same():
    cos, sin = rotary_tables(7, 8, 100.0, "cpu")
    q, k = normal(2, 7, 4, 8, dtype=torch.float32), normal(2, 7, 2, 8, dtype=torch.float32)
    with torch.no_grad():
        plain = rotate_and_normalize(q, k, cos, sin)
    for ours, theirs in zip(rotate_and_normalize(q.requires_grad_(), k, cos, sin), plain):
        assert torch.equal(ours, theirs)


def test_relu_squared_without_gradient_is_the_same():
    x = normal(4, 9)
    with torch.no_grad():
        assert torch.equal(relu_squared(x), F.relu(x).square())


def test_linear_multiplies_in_the_inputs_dtype_and_keeps_float32_weights():
    linear = Linear(8, 4)
    x = normal(2, 8, dtype=torch.bfloat16)
    y = linear(x)
    assert y.dtype == torch.bfloat16 and linear.weight.dtype == torch.float32
    y.sum().backward()
    assert linear.weight.grad.dtype == torch.float32
