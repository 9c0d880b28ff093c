"""MoleGrad: matrices whose gradient is kept as sketches of low rank.

After the idea of Nelathan's nanochat fork (branch molegrad): with Q (in, k) orthonormal, the gradient G = B^T A of a
matrix with inputs A (tokens, in) and output gradients B (tokens, out) is replaced by (G Q) Q^T. Here G Q is the
gradient of a parameter V (out, k), and G^T V that of Q, as if W + V Q^T were the matrix, whose second part is not
computed. So autograd, accumulation, clipping and a scaled loss treat the sketches as any gradient; G is never formed.
"""

import zlib
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.spec import Spec
from nanochat_pl.core.types import LowRank
from nanochat_pl.nn.layers import MLP, Linear

TARGETS = {"ffn_only": ("mlp",), "attention": ("attn",), "all": ("mlp", "attn")}
"""The parts of a block, by their names, whose matrices are streamed."""


@dataclass(frozen=True)
class Streaming(Spec):
    """Which matrices keep their gradient in low rank.

    Attributes:
        rank_k: directions of each matrix.
        power_iters: 1: the subspaces of the feed-forward layers, which have their inputs at hand, follow the gradient
            by one step of a power iteration an optimizer step; 0, and elsewhere: by renewal alone.
        warm_start_decay: what of its earlier directions a subspace keeps in such a step.
        min_size: a matrix with a shorter side than that keeps its full gradient.
        scaling: of the update within the subspace: "muon" orthogonalises it, "energy" divides it by the root of the
            running mean of Y^T Y (as Shampoo does, arXiv:1802.09568), "plain" leaves it. It has the norm of a dense
            matrix's update in any case.
    """

    enabled: bool = False
    rank_k: int = 32
    power_iters: Literal[0, 1] = 1
    target_layers: Literal["ffn_only", "attention", "all"] = "ffn_only"
    warm_start_decay: float = 0.95
    min_size: int = 128
    scaling: Literal["muon", "energy", "plain"] = "muon"

    def check(self) -> None:
        if self.rank_k < 1:
            raise UserError(f"streaming.rank_k is {self.rank_k}; it must be at least 1, for example 32.")
        if self.min_size < 1:
            raise UserError(f"streaming.min_size is {self.min_size}; it must be at least 1.")
        if not 0 <= self.warm_start_decay < 1:
            raise UserError(f"streaming.warm_start_decay is {self.warm_start_decay}; it must be from 0 to below 1.")

    def optimizer_values(self) -> dict[str, Any]:
        """What the optimizer reads of it."""
        return {"scaling": self.scaling, "warm_start_decay": self.warm_start_decay}


DENSE = Streaming()
"""None."""


def stream(model: nn.Module, options: Streaming) -> dict[str, LowRank]:
    """Let the matrices that `options` choose keep low-rank gradients from now on; by the names of their weights.

    Called where the weights stay. The subspaces begin at random, the same ones for the same names.

    Raises:
        UserError: the rank exceeds a matrix, or no matrix is chosen.
    """
    chosen = _chosen(model, options)
    wide = {name: part for name, part in model.named_modules() if isinstance(part, MLP) and f"{name}.fc" in chosen}
    streamed = {}
    for name, layer in chosen.items():
        size = min(layer.weight.shape)
        if options.rank_k > size:
            raise UserError(
                f"streaming.rank_k is {options.rank_k}, but the matrix {name} of {layer.out_features} x "
                f"{layer.in_features} has {size} directions; {size // 8} or less would save much."
            )
        part, _, own = name.rpartition(".")
        weight = layer.weight.requires_grad_(False)
        streamed[name] = low_rank = _sketched(name, weight, options.rank_k, part in wide and own == "proj")
        if part in wide:
            low_rank.right.requires_grad_(bool(options.power_iters))
        else:
            layer.in_training = (StreamedLinear(low_rank),)
    for name, mlp in wide.items():
        mlp.in_training = (StreamedMLP(streamed[f"{name}.fc"], streamed[f"{name}.proj"]),)
    return {f"{name}.weight": low_rank for name, low_rank in streamed.items()}


def _sketched(name: str, weight: Tensor, rank: int, transposed: bool = False) -> LowRank:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    weight = weight.mT if transposed else weight
    left, right = (_orthonormal(rows, rank, generator, weight) for rows in weight.shape)
    right.requires_grad_(False)
    return LowRank(weight, left, right)


def _chosen(model: nn.Module, options: Streaming) -> dict[str, Linear]:
    parts = set(TARGETS[options.target_layers])
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, Linear) and parts & set(name.split("."))
    }
    chosen = {name: layer for name, layer in layers.items() if min(layer.weight.shape) >= options.min_size}
    if not chosen:
        largest = max((min(layer.weight.shape) for layer in layers.values()), default=0)
        raise UserError(
            f"streaming.target_layers={options.target_layers} matches no matrix whose shorter side is "
            f"streaming.min_size={options.min_size} or more (the largest here: {largest}). Lower streaming.min_size, "
            "or train without streaming."
        )
    return chosen


def _orthonormal(rows: int, rank: int, generator: torch.Generator, weight: Tensor) -> nn.Parameter:
    basis = torch.linalg.qr(torch.randn(rows, rank, generator=generator))[0]
    return nn.Parameter(basis.contiguous().to(weight.device))


class StreamedLinear(nn.Module):
    """A linear map that keeps only A Q (tokens, k) of its inputs for the backward pass."""

    def __init__(self, low_rank: LowRank):
        super().__init__()
        self.weight, self.left, self.right = low_rank

    def forward(self, x: Tensor) -> Tensor:
        return _StreamedLinear.apply(x, self.weight, self.left, self.right)


class StreamedMLP(nn.Module):
    """An MLP that keeps only its inputs (tokens, C) for the backward pass, and computes the wide activation again.

    `proj` is transposed: both gradients, (4C, C) then, are seen in a subspace of the narrow side.
    """

    def __init__(self, fc: LowRank, proj: LowRank):
        super().__init__()
        self.fc, self.proj = fc, proj

    def forward(self, x: Tensor) -> Tensor:
        fc, proj = self.fc, self.proj
        return _StreamedMLP.apply(x, fc.weight, proj.weight, fc.left, fc.right, proj.left, proj.right)


class _StreamedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(x.flatten(0, -2) @ right.to(x.dtype), weight)  # not its cast, which would be kept too
        return F.linear(x, weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        seen, weight = ctx.saved_tensors
        return dy @ weight.to(dy.dtype), None, (dy.flatten(0, -2).mT @ seen).float(), None


class _StreamedMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, fc: Tensor, proj: Tensor, *subspaces: Tensor) -> Tensor:
        ctx.save_for_backward(x, fc, proj, *subspaces)
        return F.relu(x @ fc.to(x.dtype).mT).square_() @ proj.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, fc, proj, fc_left, fc_right, proj_left, proj_right = ctx.saved_tensors
        shape, x, dy = x.shape, x.flatten(0, -2), dy.flatten(0, -2)
        fc = fc.to(x.dtype)
        positive = F.relu(x @ fc.mT)
        of_proj = _sketches(positive.square(), dy, proj_left, proj_right)
        dh = (dy @ proj.to(dy.dtype).mT).mul_(positive).mul_(2)
        of_fc = _sketches(dh, x, fc_left, fc_right)
        return (dh @ fc).view(shape), None, None, *of_fc, *of_proj


def _sketches(wide: Tensor, narrow: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor | None]:
    """G Q and, where Q follows, G^T V of G = wide^T narrow."""
    of_left = (wide.mT @ (narrow @ right.to(narrow.dtype))).float()
    if not right.requires_grad:
        return of_left, None
    return of_left, (narrow.mT @ (wide @ left.to(wide.dtype))).float()
