"""Bits per byte: a loss that doesn't depend on the vocabulary, as in nanochat's loss_eval.py."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from nanochat_pl.core.types import IGNORE_INDEX


class BitsPerByte(Metric):
    """Sums nats and bytes over batches and ranks; special tokens and ignored targets count in neither.

    Args:
        token_bytes: (vocab_size,) int64, UTF-8 bytes of each token, 0 for tokens that don't count.
    """

    full_state_update = False
    token_bytes: Tensor
    nats: Tensor
    bytes: Tensor
    tokens: Tensor

    def __init__(self, token_bytes: Tensor):
        super().__init__()
        self.register_buffer("token_bytes", token_bytes, persistent=False)
        self.add_state("nats", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("bytes", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, losses: Tensor, targets: Tensor) -> None:
        """Add (B, T) losses in nats of (B, T) targets."""
        nats, size = count_nats_and_bytes(losses, targets, self.token_bytes)
        self.nats += nats.sum()
        self.bytes += size.sum()
        self.tokens += (size > 0).sum()

    def compute(self) -> tuple[Tensor, Tensor]:
        """Bits per byte, infinite where no byte was seen; and nats per token that counts."""
        return self.nats / (math.log(2) * self.bytes), self.nats / self.tokens


def count_nats_and_bytes(losses: Tensor, targets: Tensor, token_bytes: Tensor) -> tuple[Tensor, Tensor]:
    """What each target adds: nats (float32) and bytes (int64), 0 for targets that don't count; shaped as `targets`."""
    size = torch.where(targets == IGNORE_INDEX, 0, token_bytes[targets.clamp_min(0)])
    return losses.float().where(size > 0, 0.0), size
