"""Keys and values of the tokens seen so far: rows of different lengths, rings where a layer sees a window only."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_pl.nn.attention.backend import Backend, falling
from nanochat_pl.nn.position import RotaryTables


class KVCache:
    """Preallocated keys and values, and what else a model carries from token to token.

    Row b holds `lengths[b]` tokens; its next token takes that position. A layer keeps what its window shows, the
    current token included: position p lies in place p mod size, so a row may go on for good. The lengths live on the
    host, so that nothing waits for the device. A forward pass attends in every layer, then advances once.

    Args:
        windows: of each layer, tokens before its own that a query sees.
        rows: that are stored.
        capacity: tokens of a row that are stored in layers whose window shows as many.
        like: (H_kv, D), a token's keys in the cache's dtype and on its device.
        tables: the rotary tables, in that dtype and there; None: the model has none.
        backend: attends where a row begins with several tokens; its slopes hold for all tokens.

    Attributes:
        storage: the same object for all parts of one storage.
    """

    _is_captured = False
    _known: Sequence[int] = ()
    _start: int | None = None
    _places: dict[int, tuple[Tensor, Tensor]]
    _derived: tuple[Tensor, Tensor] | None

    def __init__(
        self,
        windows: Sequence[int],
        rows: int,
        capacity: int,
        like: Tensor,
        tables: RotaryTables | None,
        backend: Backend,
    ):
        sizes = [min(capacity, window + 1) for window in windows]
        self.keys = [like.new_zeros(rows, like.size(0), size, like.size(1)) for size in sizes]
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self.last_ids = torch.zeros(rows, 1, dtype=torch.int64, device=like.device)
        self.windows, self.capacity, self.tables, self.backend = windows, capacity, tables, backend
        self.storage = object()
        self._lengths, self._first = [0] * rows, 0

    def rows(self, first: int, last: int) -> "KVCache":
        """Rows `first` to `last` - 1 alone, for a forward pass of them; the storage is shared."""
        part = object.__new__(KVCache)
        part.keys = [keys[first:last] for keys in self.keys]
        part.values = [values[first:last] for values in self.values]
        part.last_ids = self.last_ids[first:last]
        part.windows, part.capacity, part.tables = self.windows, self.capacity, self.tables
        part.backend, part.storage = self.backend, self.storage
        part._lengths, part._first = self._lengths, self._first + first
        return part

    def at(self, positions: Tensor) -> "KVCache":
        """The same rows for one more token each, in work that can be captured and repeated: nothing depends on lengths.

        The work reads each token's position from `positions`, (B,), attends to whole rings under a mask, and leaves
        lengths and last ids alone: `advance` those of this cache behind it. No row may be empty.
        """
        part = self.rows(0, len(self.last_ids))
        part._is_captured = True
        part._places, part._derived = {}, (torch.arange(len(positions), device=positions.device), positions)
        return part

    def branches(self, count: int) -> "Branches":
        """For a forward pass of `count` continuations of each row, which leaves the rows as they are."""
        return Branches(self, count)

    @property
    def device(self) -> torch.device:
        return self.last_ids.device

    @property
    def can_be_captured(self) -> bool:
        """Whether `at` leads to work for a CUDA graph."""
        return self.last_ids.is_cuda

    @property
    def num_rows(self) -> int:
        """Rows that are stored."""
        return len(self.last_ids)

    @property
    def ring(self) -> int:
        """Tokens that every layer still holds of a row; a longer row has lost its first ones somewhere."""
        return min(keys.size(2) for keys in self.keys)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return self._lengths[self._first : self._first + len(self.last_ids)]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths)

    def positions(self, T: int) -> Tensor:
        """Where the next T tokens stand: (T,), or (B, 1) where the rows' lengths differ."""
        if self.start is not None:
            return torch.arange(self.start, self.start + T, device=self.device)
        return self._positions()[1][:, None]

    def rotary(self, T: int) -> tuple[Tensor, Tensor] | None:
        """Rows of the rotary tables for the next T tokens: (T, D), or (B, 1, 1, D) where the rows' lengths differ.

        None where there are no tables.
        """
        if self.tables is None:
            return None
        if self.start is not None:
            return self.tables.rows(self.start, T)
        cos, sin = self.tables.rows(0, self.tables.length if self._is_captured else max(self.lengths) + 1)
        _, position = self._positions()
        return cos[position][:, None, None], sin[position][:, None, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
        """Store the next T tokens' keys and values, (B, H_kv, T, D), and attend to them and to those before.

        Rows of different lengths go on by one token at a time.

        Args:
            q: (B, H, T, D).
            window: tokens before its own that a query sees.

        Returns:
            (B, H, T, D)
        """
        T, start = q.size(2), self.start
        gqa = q.size(1) != k.size(1)
        if T == 1 and start != 0:
            keys, values, mask = self._store_one(layer, k, v)
            return F.scaled_dot_product_attention(q, keys, values, mask, scale=scale, enable_gqa=gqa)
        assert start is not None, "rows of different lengths go on by one token at a time"
        if start == 0:
            y = self.backend(q, k, v, window, scale)
        else:
            first = start - min(start, window)
            before = torch.arange(first, start, device=k.device) % self.keys[layer].size(2)
            keys = torch.cat((self.keys[layer][:, :, before], k), dim=2)
            values = torch.cat((self.values[layer][:, :, before], v), dim=2)
            distance = torch.arange(start, start + T, device=k.device)[:, None] - torch.arange(
                first, start + T, device=k.device
            )
            seen = (distance >= 0) & (distance <= window)
            if self.backend.slopes is not None:
                seen = falling(distance, seen, self.backend.slopes, q.dtype)
            y = F.scaled_dot_product_attention(q, keys, values, seen, scale=scale, enable_gqa=gqa)
        self._store(layer, start, k, v)
        return y

    def advance(self, ids: Tensor) -> None:
        """Count the tokens (B, T) that a forward pass stored."""
        if self._is_captured:
            return
        B, T = ids.shape
        self.last_ids.copy_(ids[:, -1:])
        for row in range(self._first, self._first + B):
            self._lengths[row] += T
            length = self._lengths[row]
            assert length <= self.capacity or self.capacity > max(self.windows), f"{length} tokens of {self.capacity}"

    def copy_row(self, source: int, target: int) -> None:
        """Make row `target` the same as row `source`."""
        length = self._lengths[self._first + source]
        for tensors in (self.keys, self.values):
            for tensor in tensors:
                held = min(length, tensor.size(2))
                tensor[target, :, :held] = tensor[source, :, :held]
        self.last_ids[target] = self.last_ids[source]
        self._lengths[self._first + target] = length

    def cut_row(self, row: int, ids: Sequence[int]) -> None:
        """Leave row `row` with the tokens `ids`, the first of those it holds, which no ring may have lost."""
        length = self._lengths[self._first + row]
        assert len(ids) in (0, length) or len(ids) < length <= self.ring
        if ids:
            self.last_ids[row] = ids[-1]
        self._lengths[self._first + row] = len(ids)

    def resized(self, rows: int, capacity: int) -> "KVCache":
        """A copy with more or fewer rows, and a capacity that all of them fit in."""
        new = KVCache(self.windows, rows, capacity, self.keys[0][0, :, 0], self.tables, self.backend)
        kept = min(rows, len(self.last_ids))
        for olds, news in ((self.keys, new.keys), (self.values, new.values)):
            for old, to in zip(olds, news):
                held = min(old.size(2), to.size(2))
                to[:kept, :, :held] = old[:kept, :, :held]
        new.last_ids[:kept] = self.last_ids[:kept]
        new._lengths[:kept] = self.lengths[:kept]
        return new

    def _store(self, layer: int, start: int, k: Tensor, v: Tensor) -> None:
        keys, values = self.keys[layer], self.values[layer]
        T, size = k.size(2), keys.size(2)
        held = min(T, size)
        place = (start + T - held) % size
        until = min(size, place + held) - place  # the rest goes on at the ring's beginning
        for ring, new in ((keys, k), (values, v)):
            new = new[:, :, T - held :]
            ring[:, :, place : place + until] = new[:, :, :until]
            ring[:, :, : held - until] = new[:, :, until:]

    def _store_one(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values with the next token of each row, and which of them it sees; None: all."""
        keys, values = self.keys[layer], self.values[layer]
        size = keys.size(2)
        if self._start is not None:
            place, held = self._start % size, min(self._start + 1, size)
            keys.narrow(2, place, 1).copy_(k)
            values.narrow(2, place, 1).copy_(v)
            return keys.narrow(2, 0, held), values.narrow(2, 0, held), self._mask_of_equal_rows(size, held)
        numbers, position = self._positions()
        if size not in self._places:
            longest = size if self._is_captured else min(size, max(self.lengths) + 1)
            self._places[size] = position % size, self._mask(size, longest, position)
        places, mask = self._places[size]
        keys[numbers, :, places], values[numbers, :, places] = k.squeeze(2), v.squeeze(2)
        return keys.narrow(2, 0, mask.size(-1)), values.narrow(2, 0, mask.size(-1)), mask

    def _mask_of_equal_rows(self, size: int, held: int) -> Tensor | None:
        if self.backend.slopes is None:
            return None
        if size not in self._places:
            position = torch.tensor([self._start], device=self.device)
            self._places[size] = position, self._mask(size, held, position)
        return self._places[size][1]

    def _mask(self, size: int, held: int, position: Tensor) -> Tensor:
        """(B, 1 or H, 1, held): how the next token of each row, at `position` (B,), sees the first places of a ring."""
        places = torch.arange(held, device=position.device)
        seen = (places <= position[:, None])[:, None]
        if self.backend.slopes is None:
            return seen.unsqueeze(1)
        distance = (position[:, None] - places) % size
        return falling(distance[:, None], seen, self.backend.slopes, self.keys[0].dtype)

    def _positions(self) -> tuple[Tensor, Tensor]:
        """(B,) numbers of the rows, and (B,) where the next token of each goes."""
        if self._derived is None:
            position = torch.tensor(self.lengths, device=self.device)
            self._derived = torch.arange(len(position), device=position.device), position
        return self._derived

    @property
    def start(self) -> int | None:
        """The length of all rows, None where they differ."""
        lengths = self.lengths
        if lengths != self._known and not self._is_captured:  # other parts of the storage may have advanced
            self._known = lengths
            self._start = lengths[0] if min(lengths) == max(lengths) else None
            self._places, self._derived = {}, None
        return self._start


class Branches:
    """Several continuations of one prefix, which is read once and whose keys are never copied.

    Takes the cache's place in a forward pass of K continuations of each of its rows; nothing is stored. Row e * K + k
    of the ids (E * K, T) continues row e of the cache. Rows shorter than T are padded on the right: what stands there
    reaches nothing before it.

    Args:
        prefixes: rows of the same length, none empty.
        count: K.
    """

    def __init__(self, prefixes: KVCache, count: int):
        assert prefixes.start, "the rows of prefixes must be of the same length, and not empty"
        self._prefixes, self._count = prefixes, count
        self.start = self.longest = prefixes.start
        self.last_ids = prefixes.last_ids.repeat_interleave(count, dim=0)

    def positions(self, T: int) -> Tensor:
        """(T,) where the tokens after the prefix stand."""
        return self._prefixes.positions(T)

    def rotary(self, T: int) -> tuple[Tensor, Tensor] | None:
        """Rows (T, D) of the rotary tables for the tokens after the prefix; None where there are none."""
        return self._prefixes.rotary(T)

    def advance(self, ids: Tensor) -> None:
        """Nothing: the prefixes stay as they are."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
        """Attend to the row's own tokens and to its prefix, under one softmax.

        The queries of all branches of a prefix meet its keys in one product.

        Args:
            q: (E * K, H, T, D).
            k, v: (E * K, H_kv, T, D).
            window: tokens before its own that a query sees.

        Returns:
            (E * K, H, T, D)
        """
        stored = self._prefixes.keys[layer], self._prefixes.values[layer]
        E, H_kv, size, D = stored[0].shape
        K, T, start = self._count, q.size(2), self.start
        first = start - min(start, window)
        before = torch.arange(first, start, device=q.device)
        keys, values = (ring[:, :, before % size] for ring in stored)  # (E, H_kv, P, D)
        P = start - first

        own_q = q.reshape(E * K, H_kv, -1, D)  # the heads that share a key head stand together: (E * K, H_kv, G * T, D)
        all_q = own_q.view(E, K, H_kv, -1, D).transpose(1, 2).reshape(E, H_kv, -1, D)  # (E, H_kv, K * G * T, D)
        own = (own_q @ k.transpose(2, 3)).view(E, K, H_kv, -1, T).transpose(1, 2)
        scores = torch.cat((all_q @ keys.transpose(2, 3), own.reshape(E, H_kv, -1, T)), dim=-1)
        distance = torch.arange(start, start + T, device=q.device)[:, None] - torch.arange(
            first, start + T, device=q.device
        )
        unseen = (distance < 0) | (distance > window)  # (T, P + T)
        scores = scores.float().mul_(scale).view(E, H_kv, K, -1, T, P + T)
        if self._prefixes.backend.slopes is not None:
            scores -= self._prefixes.backend.slopes.view(H_kv, 1, -1, 1, 1) * distance
        scores = scores.masked_fill_(unseen, -torch.inf)
        p = torch.softmax(scores, dim=-1).to(v.dtype).view(E, H_kv, -1, P + T)

        own_p = p[..., P:].reshape(E, H_kv, K, -1, T).transpose(1, 2).reshape(E * K, H_kv, -1, T)
        y = (p[..., :P] @ values).view(E, H_kv, K, -1, D).transpose(1, 2).reshape(E * K, H_kv, -1, D)
        return (y + own_p @ v).reshape(q.shape)
