"""Several continuations of one prefix, read side by side: the prefix is read once and its keys are never copied."""

import torch
from torch import Tensor

from nanochat_pl.nn.kv_cache import KVCache


class Branches:
    """Takes the cache's place in a forward pass of K continuations of each of its rows; nothing is stored.

    Row e * K + k of the ids (E * K, T) continues row e of the cache. Rows shorter than T are padded on the right: what
    stands there reaches nothing before it.

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
