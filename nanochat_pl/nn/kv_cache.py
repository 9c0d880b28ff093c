"""Keys and values of the tokens seen so far, for rows of different lengths."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_pl.nn.attention import attention


class KVCache:
    """Preallocated keys and values, and what else a model carries from token to token.

    Args:
        cos, sin: the rotary tables (length, D) of as many tokens as a row can hold, in the cache's dtype.

    Row b holds `lengths[b]` tokens; its next token takes that position. The lengths live on the host, so that choosing
    a slice of the cache never waits for the device. A forward pass attends in every layer, then advances once.
    """

    def __init__(
        self,
        n_layer: int,
        batch_size: int,
        n_kv_head: int,
        cos: Tensor,
        sin: Tensor,
    ):
        self.length, head_dim = cos.shape
        shape = (n_layer, batch_size, n_kv_head, self.length, head_dim)
        self.keys, self.values = cos.new_zeros(shape).unbind(), cos.new_zeros(shape).unbind()
        self.cos, self.sin = cos, sin
        self.lengths = [0] * batch_size
        self.even = True  # all rows hold equally many tokens
        self.last_embedding: Tensor | None = None
        self._masks: dict[int, Tensor] = {}
        self._positions: Tensor | None = None

    def positions(self, T: int) -> Tensor:
        """(B, T): where the next T tokens of each row go."""
        if self._positions is None:
            starts = torch.tensor(self.lengths, device=self.keys[0].device)
            self._positions = starts[:, None] + torch.arange(T, device=starts.device)
        return self._positions

    def rotary(self, T: int) -> tuple[Tensor, Tensor]:
        """Rows of the rotary tables for the next T tokens: (T, D), or (B, 1, T, D) where the rows' lengths differ."""
        if self.even:
            return self.cos.narrow(0, self.lengths[0], T), self.sin.narrow(0, self.lengths[0], T)
        positions = self.positions(T)
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
        """Store the next T tokens' keys and values, (B, H_kv, T, D), and attend to them and to those before.

        Args:
            q: (B, H, T, D).
            window: tokens before its own that a query sees.

        Returns:
            (B, H, T, D)
        """
        T, start, end = q.size(2), min(self.lengths), max(self.lengths) + q.size(2)
        assert end <= self.length, f"{end} tokens in a cache of {self.length}"
        keys, values = self.keys[layer], self.values[layer]
        if self.even:
            keys.narrow(2, start, T).copy_(k)
            values.narrow(2, start, T).copy_(v)
        else:
            rows, positions = torch.arange(len(self.lengths), device=q.device)[:, None], self.positions(T)
            keys[rows, :, positions], values[rows, :, positions] = k.transpose(1, 2), v.transpose(1, 2)
        if end == T:
            return attention(q, k, v, window, scale)
        first = max(0, start - window)
        mask = None if self.even and T == 1 else self._mask(T, first, end, window)
        keys, values = keys.narrow(2, first, end - first), values.narrow(2, first, end - first)
        return F.scaled_dot_product_attention(q, keys, values, mask, scale=scale, enable_gqa=q.size(1) != k.size(1))

    def advance(self, new_tokens: Sequence[int]) -> None:
        """Count the tokens that a forward pass stored; what it stored beyond them (padding) is overwritten later."""
        self.lengths = [length + new for length, new in zip(self.lengths, new_tokens, strict=True)]
        self.even = min(self.lengths) == max(self.lengths)
        self._positions = None
        self._masks.clear()

    def _mask(self, T: int, first: int, end: int, window: int) -> Tensor:
        """(B, 1, T, end - first): which keys each of the next tokens sees."""
        if window not in self._masks:
            position = self.positions(T)[:, None, :, None]
            key = torch.arange(first, end, device=position.device)
            self._masks[window] = (key <= position) & (key >= position - window)
        return self._masks[window]
