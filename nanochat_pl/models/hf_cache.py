"""transformers' own caches as rows of one cache, for `inference.engine`."""

import copy
import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def empty_cache(config: Any) -> Any:
    """The library's cache for the layers of a config."""
    from transformers.cache_utils import DynamicCache

    return DynamicCache(config=config)


def can_be_joined(cache: Any) -> bool:
    """Whether its layers keep keys and values alone."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


class Texts:
    """Stands for a cache: the rows' tokens alone, which are read anew in each forward pass. Right, and slow."""

    can_be_captured = False
    ring = sys.maxsize

    def __init__(self, rows: list[list[int]], capacity: int, device: torch.device):
        self.texts, self.capacity, self.device = rows, capacity, device

    def rows(self, first: int, last: int) -> "Texts":
        """Rows `first` to `last` - 1 alone; the storage is shared."""
        return Texts(self.texts[first:last], self.capacity, self.device)

    @property
    def num_rows(self) -> int:
        """Rows that are stored."""
        return len(self.texts)

    def advance(self, ids: Tensor) -> None:
        """Add the tokens (B, T)."""
        for text, new in zip(self.texts, ids.tolist(), strict=True):
            text += new

    def copy_row(self, source: int, target: int) -> None:
        """Make row `target` the same as row `source`."""
        self.texts[target][:] = self.texts[source]

    def cut_row(self, row: int, ids: Sequence[int]) -> None:
        """Leave row `row` with the tokens `ids`, the first of those it holds."""
        self.texts[row][:] = ids

    def resized(self, rows: int, capacity: int) -> "Texts":
        """The same with more or fewer rows."""
        more: list[list[int]] = [[] for _ in range(rows - self.num_rows)]
        return Texts(self.texts[:rows] + more, capacity, self.device)

    def branches(self, count: int) -> "Texts":
        """`count` rows in place of each, one after the other."""
        return Texts([[*text] for text in self.texts for _ in range(count)], self.capacity, self.device)


class HFCache:
    """Stands for `nn.kv_cache.KVCache` where a model is transformers'.

    Each row is a cache of the library's own. Rows that go on together are joined into one, padded on the left, and stay
    so while the same rows go on.

    Args:
        config: the library's, which says what each layer keeps.
        rows: that are stored.
        capacity: nothing is allocated beforehand; see `inference.engine`.

    Attributes:
        ring: tokens that every layer still holds of a row; a longer one cannot be cut.
        can_be_captured: they grow, so a CUDA graph cannot hold them.
    """

    can_be_captured = False

    def __init__(self, config: Any, rows: int, capacity: int, device: torch.device):
        self.config, self.capacity, self.device = config, capacity, device
        self._empty = empty_cache(config)
        windows = (layer.sliding_window - 1 for layer in self._empty.layers if layer.is_sliding)
        self.ring = min(windows, default=sys.maxsize)
        self._store = _Store([self._copy(self._empty) for _ in range(rows)], [0] * rows)
        self._span = range(rows)

    def rows(self, first: int, last: int) -> "HFCache":
        """Rows `first` to `last` - 1 alone, for a forward pass of them; the storage is shared."""
        part = copy.copy(self)
        part._span = self._span[first:last]
        return part

    @property
    def num_rows(self) -> int:
        """Rows that are stored."""
        return len(self._span)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [self._store.lengths[row] for row in self._span]

    def begin(self, T: int) -> dict[str, Any]:
        """What the library's model is given to read the next T tokens of each row."""
        lengths = torch.tensor(self.lengths, device=self.device)[:, None]
        longest = max(self.lengths)
        mask = None
        if min(self.lengths) < longest:
            mask = (torch.arange(longest + T, device=self.device) >= longest - lengths).long()
        positions = lengths + torch.arange(T, device=self.device)
        return {"past_key_values": self._joined(), "attention_mask": mask, "position_ids": positions, "use_cache": True}

    def advance(self, ids: Tensor) -> None:
        """Count the tokens (B, T) that a forward pass stored."""
        for row in self._span:
            self._store.lengths[row] += ids.size(1)

    def copy_row(self, source: int, target: int) -> None:
        """Make row `target` the same as row `source`."""
        self._settle()
        store = self._store
        store.caches[target] = self._copy(store.caches[source])
        store.lengths[target] = store.lengths[source]

    def cut_row(self, row: int, ids: Sequence[int]) -> None:
        """Leave row `row` with the tokens `ids`, the first of those it holds."""
        self._settle()
        store, removed = self._store, self._store.lengths[row] - len(ids)
        if not ids:
            store.caches[row] = self._copy(self._empty)
        elif removed:
            store.caches[row].crop(-removed)
        store.lengths[row] = len(ids)

    def resized(self, rows: int, capacity: int) -> "HFCache":
        """The same with more or fewer rows."""
        self._settle()
        new = HFCache(self.config, rows, capacity, self.device)
        kept = min(rows, self.num_rows)
        new._store.caches[:kept], new._store.lengths[:kept] = self._store.caches[:kept], self._store.lengths[:kept]
        return new

    def branches(self, count: int) -> "HFCache":
        """`count` rows in place of each, one after the other."""
        new = HFCache(self.config, count * self.num_rows, self.capacity, self.device)
        self._settle()
        for i in range(new.num_rows):
            row = self._span[i // count]
            new._store.caches[i] = self._copy(self._store.caches[row])
            new._store.lengths[i] = self._store.lengths[row]
        return new

    def _joined(self) -> Any:
        store = self._store
        if len(self._span) > 1:
            if store.joined is None or store.together != self._span:
                self._settle()
                caches = [store.caches[row] for row in self._span]
                store.joined, store.together = self._join(caches, max(self.lengths)), self._span
                for row in self._span:
                    store.caches[row] = None
            return store.joined
        if self._span[0] in store.together:
            self._settle()
        return store.caches[self._span[0]]

    def _settle(self) -> None:
        """Give each row that is joined with others a cache of its own again."""
        store = self._store
        for i, row in enumerate(store.together):
            store.caches[row] = self._row(store.joined, i, store.lengths[row])
        store.joined, store.together = None, range(0)

    def _join(self, caches: list[Any], longest: int) -> Any:
        joined = self._copy(self._empty)
        if longest:
            for layer, *parts in zip(joined.layers, *(cache.layers for cache in caches)):
                held = max(part.keys.size(2) for part in parts)
                layer.lazy_initialization(parts[0].keys, parts[0].values)
                layer.keys, layer.values = (
                    torch.cat([F.pad(x, (0, 0, held - x.size(2), 0)) for x in of])
                    for of in ([part.keys for part in parts], [part.values for part in parts])
                )
                if layer.is_sliding:
                    layer.cumulative_length = longest
        return joined

    def _row(self, joined: Any, i: int, length: int) -> Any:
        """One row of a joined cache by itself, without what pads it."""
        row = self._copy(joined)
        for layer in row.layers:
            held = min(length, layer.keys.size(2))
            layer.keys, layer.values = (x[i : i + 1, :, x.size(2) - held :].clone() for x in (layer.keys, layer.values))
            if layer.is_sliding:
                layer.cumulative_length = length
        return row

    def _copy(self, cache: Any) -> Any:
        """Keys and values are never changed in place, so that copies may share them."""
        new = copy.copy(cache)
        new.layers = [copy.copy(layer) for layer in cache.layers]
        return new


class _Store:
    """What the parts of a cache share.

    Attributes:
        caches: of each row; None where it is joined.
        lengths: tokens of each row.
        joined: the cache of the rows `together`.
    """

    def __init__(self, caches: list[Any], lengths: list[int]):
        self.caches, self.lengths = caches, lengths
        self.joined: Any = None
        self.together = range(0)
