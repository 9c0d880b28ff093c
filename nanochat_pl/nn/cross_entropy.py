"""Cross-entropy of a softcapped linear head, without ever holding the logits of all tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    *,
    softcap: float | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """Loss of each token, float32, in the shape of `targets`; 0 where the target is `ignore_index`."""
    logits = F.linear(x.reshape(-1, x.size(-1)), weight.to(x.dtype)).float()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    losses = F.cross_entropy(logits, targets.reshape(-1), ignore_index=ignore_index, reduction="none")
    if weights is not None:
        losses = losses * weights.reshape(-1)
    return losses.view(targets.shape)
