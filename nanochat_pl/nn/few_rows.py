"""Matrix products with few rows on a CPU, as decoding and short prompts need them.

MKL computes x W^T in float32 with a few rows on one thread, or badly on several. The same product in blocks of outputs,
which `bmm` gives to all threads, takes 0.4 to 0.9 of the time (docs/benchmarks.md). For other dtypes and without MKL
there is one block, and nothing is gained.
"""

import torch
from torch import Tensor

MAX_ROWS = 128
"""With more, MKL's own way is as fast."""


def in_blocks(weight: Tensor, count: int | None = None) -> Tensor:
    """A view of a weight (N, K) as blocks (S, K, N / S).

    Args:
        count: of blocks at most; None: 8, and not fewer than there are threads.
    """
    N, K = weight.shape
    if not _multiplied_by_mkl(weight):
        return weight.t().unsqueeze(0)
    most = count or max(8, torch.get_num_threads())
    S = next(parts for parts in range(min(most, N), 0, -1) if N % parts == 0)
    return weight.view(S, N // S, K).transpose(1, 2)


def product(x: Tensor, blocks: Tensor) -> Tensor:
    """x (B, K) times the transpose of a weight in blocks (S, K, N / S): (B, N)."""
    S, K, width = blocks.shape
    B = x.size(0)
    y = torch.bmm(x.expand(S, B, K), blocks)
    return (y if B == 1 else y.transpose(0, 1).contiguous()).view(B, S * width)


class WideWeight:
    """A weight (N, K), for products with any number of rows.

    For one row it holds a copy that is read along the inputs: 1.3 to 2 times as fast where N is large.
    """

    def __init__(self, weight: Tensor):
        self._blocks = in_blocks(weight)
        self._turned = self._blocks
        if _multiplied_by_mkl(weight):
            self._turned = in_blocks(weight, torch.get_num_threads()).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        return product(x, self._turned if x.size(0) == 1 else self._blocks)


def _multiplied_by_mkl(weight: Tensor) -> bool:
    return torch.backends.mkl.is_available() and weight.dtype == torch.float32
