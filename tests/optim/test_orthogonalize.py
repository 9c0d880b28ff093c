import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.optim.orthogonalize import equilibrate_rows_, polar_express_
from tests.reference import plain_muon

SHAPES = [
    (1, 1),
    (1, 7),
    (7, 1),
    (16, 16),
    (24, 40),
    (12, 96),
    (96, 12),
    (193, 200),
    (200, 800),
    (800, 200),
    (401, 203),
]


def stacks(rows: int, cols: int) -> dict[str, torch.Tensor]:
    """Kinds of gradients, easy and hard: full rank, low rank, spectra that fall steeply."""
    generator = torch.Generator().manual_seed(rows * 1000 + cols)
    dense = torch.randn(3, rows, cols, generator=generator)
    low_rank = torch.randn(2, rows, 3, generator=generator) @ torch.randn(2, 3, cols, generator=generator)
    steep = dense * torch.arange(1, rows + 1).view(-1, 1) ** -1.5
    return {"dense": dense, "low rank": low_rank + 1e-3 * dense[:2], "steep": steep}


def relative(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_polar_express_is_as_exact_as_the_formula_in_float32(rows: int, cols: int, steps: int) -> None:
    for kind, stack in stacks(rows, cols).items():
        expected = torch.stack([plain_muon.polar_express(matrix, steps) for matrix in stack])
        plain = torch.stack([plain_muon.polar_express(matrix, steps, torch.float32) for matrix in stack])
        error, plain_error = relative(polar_express_(stack.clone(), steps), expected), relative(plain, expected)
        assert error < 3 * plain_error + 1e-5 and error < 1e-3, f"{kind}: {error:.1e}, plain {plain_error:.1e}"


@given(
    count=st.integers(1, 3), rows=st.integers(2, 40), cols=st.integers(2, 40), scale=st.sampled_from([1e-4, 1.0, 1e4])
)
@settings(max_examples=30, deadline=None)
def test_polar_express_keeps_the_singular_vectors(count: int, rows: int, cols: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(rows * cols)
    short = min(rows, cols)
    left = torch.linalg.qr(torch.randn(count, rows, short, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(count, cols, short, generator=generator, dtype=torch.float64))[0]
    singular_values = torch.linspace(1, 0.05, short, dtype=torch.float64)
    stack = (left * singular_values @ right.mT * scale).float()
    result = polar_express_(stack).double()
    coordinates = left.mT @ result @ right
    diagonal = coordinates.diagonal(dim1=-2, dim2=-1)
    assert (coordinates - torch.diag_embed(diagonal)).abs().max() < 1e-3
    assert diagonal.min() > 0.6 and diagonal.max() < 1.3


def test_polar_express_in_bfloat16_is_near_the_formula() -> None:
    stack = stacks(64, 256)["dense"]
    expected = torch.stack([plain_muon.polar_express(matrix, 5) for matrix in stack])
    assert relative(polar_express_(stack.bfloat16()), expected) < 0.1


def test_zeros_stay_zeros() -> None:
    for shape in [(2, 8, 8), (2, 4, 32), (2, 300, 20)]:
        stack = torch.zeros(shape)
        assert torch.equal(polar_express_(equilibrate_rows_(stack)), torch.zeros(shape))


def test_one_matrix_does_not_see_the_others_of_its_stack() -> None:
    stack = stacks(24, 96)["dense"]
    together = polar_express_(stack.clone())
    torch.testing.assert_close(together[1:2], polar_express_(stack[1:2].clone()), rtol=1e-5, atol=1e-6)


def test_equilibrated_rows_have_one_norm_and_the_matrix_keeps_its_own() -> None:
    stack = stacks(20, 30)["steep"]
    norms = stack.flatten(1).norm(dim=1)
    result = equilibrate_rows_(stack.clone())
    rows = result.norm(dim=-1)
    torch.testing.assert_close(rows, rows[:, :1].expand_as(rows))
    torch.testing.assert_close(result.flatten(1).norm(dim=1), norms)
