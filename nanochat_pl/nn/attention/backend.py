"""What every attention backend offers."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from nanochat_pl.core.hardware import AttentionBackend


class Backend:
    """Causal softmax attention: each token sees itself and the tokens before it, at most a window of them, and of its
    own document only where the row holds several.

    A forward pass says once what is seen (`see`), outside of what is compiled, and attends in every layer (`attend`).

    Args:
        slopes: (H,) float32, what each head's scores lose for a token of distance (`position.alibi_slopes`).

    Attributes:
        name: as `hw.attention` calls it.
        has_fast_windows: False where a window costs as much as the whole row, or more.
        takes_slopes: whether scores can lose by distance in memory that grows with T, not T x T.
    """

    name: AttentionBackend
    has_fast_windows = True
    takes_slopes = True

    def __init__(self, slopes: Tensor | None = None):
        assert slopes is None or self.takes_slopes
        self.slopes = slopes

    def why_not(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        """Why it does not run on a device with heads of this kind, in words that go on after a colon; None: it does.

        A backend is asked before it is used; it may try itself out then.
        """
        return None

    def see(
        self, B: int, T: int, windows: Iterable[int], documents: Tensor | None, device: torch.device
    ) -> dict[int, Any]:
        """What the queries of each window see, in the backend's own form.

        Args:
            windows: of the layers: tokens before its own that a query sees.
            documents: (B, T), a number for each token; a document's tokens stand together. None: a row is one.
        """
        raise NotImplementedError

    def attend(self, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float, seen: Any) -> Tensor:
        """Attention of one layer.

        Args:
            q: (B, H, T, D).
            k, v: (B, H_kv, T, D); H_kv divides H, consecutive query heads share a key head.
            scale: factor of the scores.
            seen: of this window, from `see`.

        Returns:
            (B, H, T, D)
        """
        raise NotImplementedError

    def for_prompts(self) -> "Backend":
        """What reads prompts, each of another length: this one, unless it would compile itself for each."""
        return self

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        window: int | None = None,
        scale: float | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """`see` and `attend` at once; without a window each token sees all before it, the scale is 1 / sqrt(D)."""
        B, _, T, D = q.shape
        window = T - 1 if window is None else window
        seen = self.see(B, T, (window,), documents, q.device)[window]
        return self.attend(q, k, v, window, D**-0.5 if scale is None else scale, seen)


def document_starts(documents: Tensor) -> Tensor:
    """(B, T) int64, the place in its row where each token's document begins."""
    places = torch.arange(documents.size(1), device=documents.device)
    return torch.where(is_start(documents), places, 0).cummax(dim=1).values


def is_start(documents: Tensor) -> Tensor:
    """(B, T) bool, whether a token is the first of its document in its row."""
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return starts


def first_seen(T: int, window: int, documents: Tensor | None, device: torch.device) -> Tensor:
    """(B, T) or, without documents, (1, T): the place of the first token that each token sees."""
    first = (torch.arange(T, device=device) - window).clamp_min(0)[None]
    return first if documents is None else torch.maximum(first, document_starts(documents))


def falling(distance: Tensor, seen: Tensor, slopes: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores that fall with the distance, -inf where a key is not seen.

    Args:
        distance, seen: (..., T, keys).
        slopes: (H,).

    Returns:
        (..., H, T, keys)
    """
    gain = slopes[:, None, None].to(torch.promote_types(dtype, slopes.dtype)) * -distance.unsqueeze(-3)
    return gain.masked_fill_(~seen.unsqueeze(-3), -torch.inf).to(dtype)


def share_heads(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (B, H, T, D), repeated where several query heads share one."""
    group = q.size(1) // k.size(1)
    return (k, v) if group == 1 else (k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1))
