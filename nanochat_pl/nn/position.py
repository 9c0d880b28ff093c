"""What tells attention where tokens stand: ALiBi's slopes (Press et al., arXiv:2108.12409), and rotary embedding
(RoFormer, arXiv:2104.09864), halves of a head paired, as nanochat rotates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.spec import Spec
from nanochat_pl.nn.layers import inverse_rms


def alibi_slopes(n_head: int) -> tuple[float, ...]:
    """What each head's scores lose for a token of distance, as in the paper's code.

    2^(-8/n), 2^(-16/n), ..., 2^-8 for n heads; where their number is no power of two, those of the power below it, and
    then every other one of the power above.
    """
    power = 1 << (n_head.bit_length() - 1)
    below = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-4 * i / power) for i in range(1, 2 * power, 2)]
    return (*below, *between[: n_head - power])


@dataclass(frozen=True)
class RotaryScaling(Spec):
    """Llama 3.1's longer context: slow rotations are slowed down by `factor`, fast ones stay, between is a passage.

    Attributes:
        low_freq_factor, high_freq_factor: rotations within `original_sequence_len` tokens, below which all is slowed
            down, and above which nothing is.
        original_sequence_len: the context that the model was trained on at first.
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_sequence_len: int = 8192

    def check(self) -> None:
        if not (1 <= self.factor < math.inf and 0 < self.low_freq_factor < self.high_freq_factor < math.inf):
            raise UserError(
                f"rope_scaling has factor {self.factor}, low_freq_factor {self.low_freq_factor} and high_freq_factor "
                f"{self.high_freq_factor}; the first must be at least 1, and the second above 0 and below the third."
            )
        if self.original_sequence_len < 1:
            raise UserError(
                f"rope_scaling has original_sequence_len {self.original_sequence_len}; it must be at least 1: the "
                "context that the model was trained on at first."
            )

    @classmethod
    def linear(cls, factor: float) -> "RotaryScaling":
        """All rotations slowed down by `factor` (arXiv:2306.15595): within one token none comes round."""
        return cls(factor, original_sequence_len=1)

    def scaled(self, frequencies: Tensor) -> Tensor:
        """Of `frequencies` in radians a token."""
        rotations = self.original_sequence_len * frequencies / (2 * torch.pi)
        kept = (rotations - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        return torch.lerp(frequencies / self.factor, frequencies, kept.clamp(0, 1))


def rotary_tables(
    length: int, head_dim: int, base: float, device: torch.device | str, scaling: RotaryScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Factors of a head and of the head with its halves swapped, each (length, head_dim) float32.

    They are (cos, cos) and (sin, -sin) of position times base^(-2i / head_dim), which `scaling` may change.
    """
    frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    if scaling is not None:
        frequencies = scaling.scaled(frequencies)
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((sin, -sin), dim=-1)


class RotaryTables:
    """Tables that grow with the longest text.

    Args:
        build: length -> cos, sin of `rotary_tables` for so many positions, in the dtype that is wanted.
        length: positions to begin with.
    """

    def __init__(self, build: Callable[[int], tuple[Tensor, Tensor]], length: int):
        self._build = build
        self._cos, self._sin = build(length)

    @property
    def length(self) -> int:
        """Positions that are there already."""
        return self._cos.size(0)

    def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """(count, D) each: the rows from position `start` on."""
        if start + count > self._cos.size(0):
            self._cos, self._sin = self._build(2 * (start + count))
        return self._cos.narrow(0, start, count), self._sin.narrow(0, start, count)


def rotate_and_normalize(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate each head by its position, then RMSNorm it; the heads move in front of the tokens.

    The pair (x[i], x[i + D/2]) turns by minus its angle, which is nanochat's direction; scores depend only on
    differences of positions, so the direction does not matter to a model trained with it.

    Args:
        q, k: (B, T, H, D) and (B, T, H_kv, D).
        cos, sin: rows of `rotary_tables`, (T, D), or (B, 1, T, D) where the rows stand at different positions.

    Returns:
        (B, H, T, D) and (B, H_kv, T, D).
    """
    if torch.is_grad_enabled():
        return _RotateAndNormalize.apply(q, cos, sin), _RotateAndNormalize.apply(k, cos, sin)
    q, _ = rotate_and_normalize_heads(q.transpose(1, 2), cos, sin)
    k, _ = rotate_and_normalize_heads(k.transpose(1, 2), cos, sin)
    return q, k


def rotate_and_normalize_heads(heads: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The rotated, normalised heads (..., D) and the factors (..., 1) that normalised them; no gradient."""
    y = heads.roll(heads.size(-1) // 2, -1).mul_(sin).addcmul_(heads, cos)
    scale = inverse_rms(y)
    return y.mul_(scale), scale


class _RotateAndNormalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y, scale = rotate_and_normalize_heads(x.transpose(1, 2), cos, sin)
        ctx.save_for_backward(y, scale, cos, sin)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        y, scale, cos, sin = ctx.saved_tensors
        along = torch.linalg.vecdot(dy, y).unsqueeze(-1).div_(y.size(-1))
        heads = torch.addcmul(dy, y, along, value=-1).mul_(scale)
        dx = (heads * cos).addcmul_(heads.roll(y.size(-1) // 2, -1), sin, value=-1)
        return dx.transpose(1, 2), None, None
