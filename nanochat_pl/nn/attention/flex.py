"""FlexAttention: torch compiles a kernel that skips the blocks of keys that nobody in a block of queries sees."""

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nanochat_pl.nn.attention.backend import Backend, first_seen
from nanochat_pl.nn.attention.blocked import Blocked
from nanochat_pl.nn.attention.sdpa import SDPA

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCK_TOKENS = 128
"""Queries and keys of a block, as FlexAttention has them by default."""

LEAST_HEAD_DIM = 16
"""Triton's matrix products take no fewer channels."""


class Flex(Backend):
    """Takes every dtype, also float32. Its block masks are computed from where each query's view begins: no T x T mask
    is ever made, and nothing waits for the device.
    """

    name = "flex"

    def __init__(self, slopes: Tensor | None = None):
        super().__init__(slopes)
        self._changed_score = None if slopes is None else _less_by_distance(slopes)

    def why_not(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        from torch.utils._triton import has_triton

        if device.type != "cuda":
            return "FlexAttention has gradients on CUDA only"
        if not has_triton():
            return "FlexAttention needs Triton, which is missing or does not know this GPU"
        if head_dim < LEAST_HEAD_DIM:
            return f"FlexAttention takes heads of {LEAST_HEAD_DIM} channels or more, and these have {head_dim}"
        return None

    def see(
        self, B: int, T: int, windows: Iterable[int], documents: Tensor | None, device: torch.device
    ) -> "dict[int, BlockMask]":
        """A block mask for each window; without documents the same one for each batch."""
        if documents is None:
            return {window: _window_mask(T, min(window, T - 1), device) for window in windows}
        return {window: block_mask(first_seen(T, window, documents, device)) for window in windows}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float, seen: "BlockMask") -> Tensor:
        gqa = k.size(1) != q.size(1)
        kernel = _kernel(q.device.type)
        return kernel(q, k, v, score_mod=self._changed_score, block_mask=seen, scale=scale, enable_gqa=gqa)

    def for_prompts(self) -> Backend:
        return SDPA() if self.slopes is None else Blocked(self.slopes)


def _less_by_distance(slopes: Tensor) -> Callable[..., Tensor]:
    """FlexAttention's `score_mod` for ALiBi."""

    def less(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score - slopes[h] * (query - key)

    return less


def block_mask(first: Tensor) -> "BlockMask":
    """The block mask of queries that see the tokens from `first` (B or 1, T), which never falls in a row, to their own.

    What a block of queries sees begins in the block of keys where its first query's view does, and ends with itself.
    Between the first block that its last query sees as a whole, and itself, no key needs a mask. A last block that the
    row does not fill is masked throughout, as torch's `create_block_mask` does.
    """
    from torch.nn.attention.flex_attention import BlockMask

    T = first.size(1)
    begin = torch.arange(0, T, BLOCK_TOKENS, device=first.device)
    end = begin + BLOCK_TOKENS
    block = begin // BLOCK_TOKENS
    seen_from = first[:, begin, None] // BLOCK_TOKENS
    whole_from = (first[:, end.clamp_max(T) - 1, None] + BLOCK_TOKENS - 1) // BLOCK_TOKENS
    whole = (block >= whole_from) & (block < block[:, None]) & (end <= T)[:, None]
    partial = (block >= seen_from) & (block <= block[:, None]) & ~whole

    def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key >= first[b, query]) & (key <= query)

    def sees_in_any_row(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key >= first[0, query]) & (key <= query)

    return BlockMask.from_kv_blocks(
        *_in_order(partial),
        *_in_order(whole),
        BLOCK_SIZE=BLOCK_TOKENS,
        mask_mod=sees if first.size(0) > 1 else sees_in_any_row,
        seq_lengths=(T, T),
    )


@functools.lru_cache(maxsize=32)
def _window_mask(T: int, window: int, device: torch.device) -> "BlockMask":
    with torch.inference_mode(False):  # or no backward pass could use it later
        return block_mask(first_seen(T, window, None, device))


def _in_order(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1, N) how many blocks of keys each block of queries has, (B, 1, N, N) which, those first."""
    blocks = blocks[:, None].to(torch.int32)
    return blocks.sum(-1, dtype=torch.int32), blocks.argsort(dim=-1, descending=True, stable=True).to(torch.int32)


def _kernel(device_type: str) -> Any:
    """FlexAttention compiled, but for a CPU, and within a region that is being compiled anyway."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if torch.compiler.is_compiling() or device_type == "cpu" else _compiled()


@functools.cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)
