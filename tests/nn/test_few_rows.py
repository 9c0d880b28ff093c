"""Products with few rows equal those of torch."""

import pytest
import torch
import torch.nn.functional as F

from nanochat_pl.nn import layers
from nanochat_pl.nn.few_rows import MAX_ROWS, WideWeight, in_blocks, product
from nanochat_pl.nn.layers import Linear


@pytest.mark.parametrize("outputs", [1, 7, 30, 64, 265])  # 7 and 265 do not divide by eight
@pytest.mark.parametrize("rows", [1, 2, 33])
@pytest.mark.parametrize("has_mkl", [True, False])
def test_a_product_in_blocks_is_the_product(
    outputs: int, rows: int, has_mkl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: has_mkl)
    torch.manual_seed(0)
    x, weight = torch.randn(rows, 24), torch.randn(outputs, 24)
    expected = F.linear(x.double(), weight.double()).float()
    for y in (product(x, in_blocks(weight)), WideWeight(weight)(x)):
        assert y.is_contiguous()
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    half, weight = x.bfloat16(), weight.bfloat16()
    for y in (product(half, in_blocks(weight)), WideWeight(weight)(half)):
        torch.testing.assert_close(y, F.linear(half, weight), atol=0.1, rtol=0.02)


def test_blocks_are_views_of_the_weight() -> None:
    weight = torch.zeros(64, 16)
    parts = in_blocks(weight)
    weight.fill_(1.0)
    assert parts.sum() == weight.numel()


@pytest.mark.parametrize("shape", [(1, 1, 16), (3, 5, 16), (16,), (0, 16), (2, MAX_ROWS // 2, 16), (2, MAX_ROWS, 16)])
@torch.no_grad()
def test_linear_is_the_same_with_and_without_gradients(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(layers, "product", lambda x, blocks: calls.append(len(x)) or product(x, blocks))
    torch.manual_seed(0)
    linear, x = Linear(16, 40), torch.randn(shape)
    with torch.enable_grad():
        expected = linear(x)
    torch.testing.assert_close(linear(x), expected, atol=1e-6, rtol=1e-5)
    rows = x.numel() // 16
    assert calls == ([rows] if len(shape) > 1 and rows <= MAX_ROWS else [])
