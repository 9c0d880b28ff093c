"""torch's scaled_dot_product_attention, which chooses among its kernels (cuDNN, FlashAttention, memory-efficient)."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_pl.nn.attention.backend import Backend, first_seen, share_heads


class SDPA(Backend):
    """Fast where all of the row is seen; windows and documents take a T x T mask."""

    name = "sdpa"
    has_fast_windows = False
    takes_slopes = False  # its mask would be T x T for each head

    def see(
        self, B: int, T: int, windows: Iterable[int], documents: Tensor | None, device: torch.device
    ) -> dict[int, Tensor | None]:
        """A mask (B or 1, 1, T, T), or None where the kernel knows by itself."""
        return {
            window: None if documents is None and window >= T - 1 else _mask(T, window, documents, device)
            for window in windows
        }

    def attend(self, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float, seen: Tensor | None) -> Tensor:
        if seen is None:
            gqa = k.size(1) != q.size(1)
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=gqa)
        # Shared heads are repeated: with enable_gqa, CUDA's efficient kernels take no mask.
        return F.scaled_dot_product_attention(q, *share_heads(q, k, v), seen, scale=scale)


def _mask(T: int, window: int, documents: Tensor | None, device: torch.device) -> Tensor:
    places = torch.arange(T, device=device)
    first = first_seen(T, window, documents, device)
    return ((places >= first[:, :, None]) & (places <= places[:, None]))[:, None]
