"""The share of answers that are right, where a row's learned targets are answers to what stands before them."""

import torch
from torch import Tensor
from torchmetrics import Metric

from nanochat_pl.core.types import IGNORE_INDEX


class AnswerAccuracy(Metric):
    """An answer is a run of targets that count, and right if each of its tokens is the likeliest: then greedy decoding
    says it too.

    Args:
        longest: answers of more tokens count as of so many.
    """

    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self, longest: int = 32):
        super().__init__()
        for name in ("right", "total"):
            self.add_state(name, torch.zeros(longest + 1, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add (B, T, vocab_size) logits of (B, T) targets."""
        counts = targets != IGNORE_INDEX
        before = torch.nn.functional.pad(counts, (1, 0))[:, :-1]
        number = (counts & ~before).flatten().cumsum(0)[counts.flatten()] - 1  # of the answer that a target belongs to
        if not len(number):
            return
        wrong = (logits.argmax(-1) != targets)[counts]
        answers = int(number[-1]) + 1
        length = torch.bincount(number, minlength=answers).clamp_max(len(self.total) - 1)
        is_right = torch.bincount(number, weights=wrong.double(), minlength=answers) == 0
        self.total += torch.bincount(length, minlength=len(self.total))
        self.right += torch.bincount(length[is_right], minlength=len(self.total))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Of all answers, and of those of each length (longest + 1,); NaN where there are none."""
        return self.right.sum() / self.total.sum(), self.right / self.total
