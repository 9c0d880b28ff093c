"""Decoding by CUDA graphs: the kernels of a step are launched at once, which a small model's speed depends on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nanochat_pl.nn.kv_cache import KVCache

_WARM_UP_CALLS = 2


class CapturedDecoder:
    """A decoder (ids (B, 1), cache) -> logits (B, 1, vocab_size), captured once for each number of rows.

    A cache that was resized, or rotary tables that have grown, are captured anew; a text that grows within them is not.

    Args:
        decode: what is captured, such as a model's forward.
    """

    def __init__(self, decode: Callable[[Tensor, KVCache], Tensor]):
        self._decode = decode
        self._storage: Any = None
        self._graphs: dict[int, _Graph] = {}

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        cache.rotary(1)  # tables long enough, before they are captured
        storage = (cache.storage, cache.tables and cache.tables.length)
        if storage != self._storage:
            self._graphs, self._storage = {}, storage
        if len(ids) not in self._graphs:
            with torch.cuda.device(ids.device):
                self._graphs[len(ids)] = _Graph(self._decode, ids, cache)
        with torch.cuda.device(ids.device):
            logits = self._graphs[len(ids)].replay(ids, cache.lengths)
        cache.advance(ids)
        return logits


class _Graph:
    """One captured step, with the tensors that it reads and writes."""

    def __init__(self, decode: Callable[[Tensor, KVCache], Tensor], ids: Tensor, cache: KVCache):
        self._ids = ids.clone()
        self._positions = torch.tensor(cache.lengths, device=ids.device)
        self._graph = torch.cuda.CUDAGraph()
        # Each call stores the same token in the same place, so doing it again changes nothing.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_CALLS):
                decode(self._ids, cache.at(self._positions))
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(self._graph):
            self._logits = decode(self._ids, cache.at(self._positions))

    def replay(self, ids: Tensor, positions: list[int]) -> Tensor:
        self._ids.copy_(ids)
        self._positions.copy_(torch.tensor(positions, pin_memory=True), non_blocking=True)
        self._graph.replay()
        return self._logits
