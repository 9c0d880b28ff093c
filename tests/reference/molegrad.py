"""MoleGrad's step with whole matrices in float64: plain, slow, for comparison."""

import torch
from torch import Tensor


class MoleGrad:
    """One matrix; what is known in the coordinates of Q is kept here as the (m, n) or (n, n) matrix that it stands for.

    Args:
        weight: (m, n).
        left, right: V (m, k) and Q (n, k).
        follows: whether Q has Z = G^T V.
    """

    def __init__(self, weight: Tensor, left: Tensor, right: Tensor, scaling: str, follows: bool):
        self.weight, self.left, self.right = weight.double(), left.double(), right.double()
        self.scaling, self.follows = scaling, follows
        self.momentum = torch.zeros_like(self.weight)
        self.energy = torch.zeros(len(right), len(right), dtype=torch.float64)

    def step(self, gradient: Tensor, random: Tensor, rate: float, momentum: float, decay: float, keep: float) -> None:
        """
        Args:
            random: (n, r) directions for the weakest.
            decay: of the weight.
            keep: what the subspace and the energy keep of what they were.
        """
        gradient, random, rank = gradient.double(), random.double(), self.right.size(1)
        inside = self.right @ self.right.mT
        before, seen = self.momentum, gradient @ inside
        self.momentum = momentum * before + (1 - momentum) * seen
        ahead = (1 - momentum) * seen + momentum * self.momentum
        u, _, vh = torch.linalg.svd(ahead)
        u, vh = u[:, :rank], vh[:rank]
        self.energy = keep * self.energy + (1 - keep) * seen.mT @ seen
        update = {"muon": u @ vh, "energy": ahead @ _inverse_root(self.energy, rank), "plain": ahead}[self.scaling]
        update *= min(gradient.shape) ** 0.5 / update.norm()
        self.weight = (1 - rate * decay) * self.weight - rate * update
        turned = vh.mT if not self.follows else (keep * before + (1 - keep) * gradient).mT @ self.left
        turned = torch.cat((turned[:, : rank - random.size(1)], random), dim=1)
        self.left, self.right = u, torch.linalg.qr(turned)[0]
        inside = self.right @ self.right.mT
        self.momentum, self.energy = self.momentum @ inside, inside @ self.energy @ inside


def _inverse_root(energy: Tensor, rank: int) -> Tensor:
    """The inverse square root within the strongest directions."""
    values, vectors = torch.linalg.eigh(energy)
    values, vectors = values[-rank:], vectors[:, -rank:]
    return vectors * values.clamp_min(1e-6 * values[-1]).rsqrt() @ vectors.mT
