"""The types that packages hand to each other."""

from typing import Any, NamedTuple

from torch import Tensor, nn

IGNORE_INDEX = -100
"""A target with this value adds neither to the loss nor to the count of weighted tokens."""


class StepBatch(NamedTuple):
    """One micro-batch of one rank.

    Attributes:
        inputs: (B, T) int64 token ids.
        targets: (B, T) int64 token ids, each the successor of the input at its place, or IGNORE_INDEX.
        weights: (B, T) float32 weight of each target's loss; None where every target counts 1.
        cursor: where the data goes on after this batch; an opaque object, so that Lightning's transfer does not
            walk into it.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None
    cursor: Any


class LowRank(NamedTuple):
    """A matrix whose gradient G (m, n) is never formed: the backward pass leaves two sketches of it.

    Attributes:
        weight: (m, n), which gets no gradient.
        left: (m, k) orthonormal; its gradient is G @ right.
        right: (n, k) orthonormal, the subspace that G is seen in; its gradient is G^T @ left, or None where the layer's
            input is not at hand in the backward pass.
        transposed: whether m and n are the inputs and the outputs of the layer: `weight` is a view of its own then.
    """

    weight: Tensor
    left: nn.Parameter
    right: nn.Parameter

    @property
    def transposed(self) -> bool:
        return not self.weight.is_contiguous()
