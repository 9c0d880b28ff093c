"""Keys and values of the tokens seen so far, for rows of different lengths."""

import torch
from torch import Tensor


class KVCache:
    """Preallocated keys and values, (B, length, H_kv, D) a layer, and what else a model carries from token to token.

    Row b holds `lengths[b]` tokens; its next token takes that position. `lengths` lives on the host, so that choosing
    a slice of the cache never waits for the device.
    """

    def __init__(
        self,
        n_layer: int,
        batch_size: int,
        length: int,
        n_kv_head: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ):
        shape = (batch_size, length, n_kv_head, head_dim)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(n_layer)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(n_layer)]
        self.lengths = [0] * batch_size
        self.last_embedding: Tensor | None = None
