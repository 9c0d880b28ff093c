"""Orthogonalising stacks of matrices in place, for Muon.

Every function takes a stack (K, rows, cols) and treats its K matrices independently.
"""

import itertools

import torch
from torch import Tensor

# Amsel, Persson, Musco, Gower: "The Polar Express" (arXiv 2505.16932), for 5 steps, safety factor 2e-2, cushion 2.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
SMALLEST_NORM = 1e-6
BLOCKS = 4
SMALLEST_IN_BLOCKS = 192


def equilibrate_rows_(stack: Tensor) -> Tensor:
    """Give every row of a matrix the same norm, keeping the Frobenius norm (MuonEq, arXiv 2603.28254)."""
    row_norm = stack.norm(dim=-1, keepdim=True, dtype=torch.float32)
    mean_norm = row_norm.norm(dim=-2, keepdim=True) / stack.size(-2) ** 0.5
    return stack.mul_((mean_norm / row_norm.clamp_min_(SMALLEST_NORM)).to(stack.dtype))


def polar_express_(stack: Tensor, steps: int = 5) -> Tensor:
    """Replace each matrix by one with the same singular vectors and singular values near 1; zeros stay zeros.

    A step takes the polynomial B = a + b A + c A A of the small matrix A = X X^T (the shorter side) and X <- B X.
    Two things save multiplications. A, B and all their products are symmetric, so on CPU little more than half of each
    is computed. And where X is long, several steps run on the small matrices alone, A <- B A B, before X is multiplied
    by the product of their B: half of the work for a 4 times longer X. Rounding errors of A grow with each such step:
    so at most three are taken, and only in float32.

    Args:
        stack: (K, rows, cols), float32 or bfloat16; overwritten.
        steps: 1 to 5 polynomials.
    """
    stack.mul_((1 / (_norms(stack) * 1.01 + 1e-6)).to(stack.dtype))
    short, long = sorted(stack.shape[-2:])
    polynomials = POLAR_EXPRESS[:steps]
    if long >= 2 * short and stack.dtype == torch.float32:
        runs = [polynomials[:2], polynomials[2:]]
    else:
        runs = [(polynomial,) for polynomial in polynomials]
    gram, factor, product, total = (stack.new_empty(stack.size(0), short, short) for _ in range(4))
    x, other = stack, torch.empty_like(stack)
    tall = stack.size(-2) > stack.size(-1)
    for run in filter(None, runs):
        _symmetric_product(x.mT if tall else x, x if tall else x.mT, out=gram)
        for index, (a, b, c) in enumerate(run):
            _symmetric_product(gram, gram, out=factor)
            factor.mul_(c).add_(gram, alpha=b).diagonal(dim1=-2, dim2=-1).add_(a)
            if index < len(run) - 1:
                _symmetric_product(gram, factor, out=product)
                _symmetric_product(product, factor, out=gram)
            if index == 0:
                factor, total = total, factor
            else:
                _symmetric_product(factor, total, out=product)
                product, total = total, product
        torch.bmm(*((x, total) if tall else (total, x)), out=other)
        x, other = other, x
    return stack if x is stack else stack.copy_(x)


def _norms(stack: Tensor) -> Tensor:
    """(K, 1, 1) Frobenius norms in float32."""
    return stack.flatten(1).norm(dim=-1, dtype=torch.float32).view(-1, 1, 1)


def _symmetric_product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """out = left @ right for products known to be symmetric, (K, n, m) x (K, m, n)."""
    n = out.size(-1)
    if out.device.type != "cpu" or n < SMALLEST_IN_BLOCKS:
        torch.bmm(left, right, out=out)
        return
    edges = [n * index // BLOCKS for index in range(BLOCKS + 1)]
    for start, end in itertools.pairwise(edges):
        # Not straight into `out`: a strided result would turn one batched product into K small ones.
        block = torch.bmm(left[:, start:end], right[:, :, :end])
        out[:, start:end, :end].copy_(block)
        out[:, :start, start:end].copy_(block[:, :, :start].mT)
