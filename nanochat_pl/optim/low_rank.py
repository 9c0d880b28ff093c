"""One step of matrices that keep sketches of their gradient in place of it (nn/molegrad.py).

With Q = `right` (n, k) and V = `left` (m, k) there are Y = G Q and, where Q follows the gradient, Z = G^T V. The
momentum (m, k) is kept in the coordinates of Q and carried over when Q turns.
"""

import logging
import zlib
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.types import LowRank
from nanochat_pl.optim.orthogonalize import SMALLEST_NORM
from nanochat_pl.optim.sharding import Sharding

log = logging.getLogger(__name__)

RENEWED = 8
"""One direction in so many, the weakest, gives way to a random one at each step where Q does not follow the gradient:
without exploring, it collapses. Where it follows, one does."""
SMALLEST_SHARE = 1e-6
"""Of the largest eigenvalue: what is below is rounding, whose directions would be noise as large as all others."""


class LowRankMatrices:
    """The matrices of the optimizer's group of role `low_rank`; their state is kept by their `left`."""

    def __init__(self, members: Iterable[LowRank]):
        self._members: dict[Tensor, LowRank] = {member.left: member for member in members}
        self._told: set[tuple[int, int]] = set()

    def sketches(self) -> list[tuple[Tensor, Tensor]]:
        """V and Q of each matrix."""
        return [(member.left, member.right) for member in self._members.values()]

    def shown_once(self, params: Iterable[Tensor]) -> list[Tensor]:
        """Those whose gradients count in a norm: Z = G^T V shows of a gradient what Y = G Q has shown."""
        second = {right for _, right in self.sketches()}
        return [p for p in params if p not in second]

    def scale(self, factors: Mapping[Tensor, Tensor]) -> None:
        """Scale each Z as its Y was."""
        for left, right in self.sketches():
            if right.grad is not None and left in factors:
                right.grad.mul_(factors[left])

    def step(self, group: dict[str, Any], state: MutableMapping[Tensor, dict[str, Tensor]], sharding: Sharding) -> None:
        """Update the matrices: each rank finds the updates of its own, which all then apply; the sketches are used up.

        Args:
            group: `steps` in it counts the steps, from which the random directions follow.
        """
        group["steps"] = group.get("steps", 0) + 1
        names = dict(zip(group["params"], group["param_names"]))
        by_shape: dict[Any, list[LowRank]] = {}
        for left, member in self._members.items():
            if left.grad is not None:
                shape = (*member.weight.shape, member.right.grad is None)
                by_shape.setdefault(shape, []).append(member)
        for (rows, cols, _), same in by_shape.items():
            turned = []
            for member in same:
                if not sharding.owns(member.left):  # its update comes here: what is sent must lie alike on all ranks
                    member.left.grad = torch.empty_like(member.left, memory_format=torch.contiguous_format)
            if own := [member for member in same if sharding.owns(member.left)]:
                random = [_random(member.right, f"{names[member.left]}/{group['steps']}") for member in own]
                found = low_rank_(group, own, [state[member.left] for member in own], random)
                turned = list(zip(own, found.left, found.right))
                for member, update in zip(own, found.update):
                    member.left.grad = update.contiguous()
            sharding.gather([member.left for member in same], gradients=True)
            sharding.wait()
            for member in same:
                weight, left, right = member
                assert left.grad is not None
                rate = group["lr"] * max(1.0, cols / rows if member.transposed else rows / cols) ** 0.5
                # The update of a matrix that is left out is zero: it does not decay either.
                decay = rate * group["weight_decay"] * left.grad.any()
                weight.mul_(1 - decay).addmm_(left.grad, right.mT, alpha=-rate)
                left.grad = right.grad = None
            for member, *bases in turned:
                for basis, new in zip(member[1:], bases):
                    basis.copy_(new)
            sharding.gather([basis for member in same for basis in member[1:]])

    def saved(self, p: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of a parameter, of a `left` with both bases."""
        if p not in self._members:
            return state
        _, left, right = self._members[p]
        return {**state, "left": left.detach(), "right": right.detach()}

    @torch.no_grad()
    def restored(self, p: Tensor, saved: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of a parameter from what is `saved`; of a `left`, whose bases are set, at the rank it has now.

        Raises:
            UserError: it lies otherwise than here, as an earlier version kept it.
        """
        if p not in self._members:
            return saved
        _, left, right = self._members[p]
        rows = {"left": len(left), "right": len(right), "momentum_buffer": len(left)}
        shapes = {name: tuple(saved[name].shape) for name in rows if name in saved}
        if not {"left", "right"} <= shapes.keys() or any(shape[:1] != (rows[name],) for name, shape in shapes.items()):
            raise UserError(
                f"The optimizer's state of a streamed matrix of {len(left)} x {len(right)} is not kept as this version "
                f"keeps it ({', '.join(f'{name} {shape}' for name, shape in shapes.items()) or 'no subspaces'}): an "
                "earlier one wrote it. Go on with that version, or take the model alone into another run: "
                "stage.init_from=RUN run.name=NAME stage.momentum=false."
            )
        state = {name: value for name, value in saved.items() if name not in ("left", "right")}
        bases, rank = [saved["left"], saved["right"]], right.size(1)
        if (before := saved["right"].size(1)) != rank:
            if (before, rank) not in self._told:
                log.info("Subspaces of %d directions go on with %d.", before, rank)
                self._told.add((before, rank))
            bases = [_resized(basis, rank) for basis in bases]
            state |= _carried(state, saved["right"].mT @ bases[1])
        left.copy_(bases[0])
        right.copy_(bases[1])
        return state


class Turned(NamedTuple):
    """What a step finds for K matrices of one shape.

    Attributes:
        update: (K, m, k), to be taken off the weights as update @ right^T, with the `right` of before.
        left: (K, m, k), the next.
        right: (K, n, k), the next; its columns stand in the order of their strength.
    """

    update: Tensor
    left: Tensor
    right: Tensor


def low_rank_(
    group: Mapping[str, Any], members: Sequence[LowRank], states: Sequence[dict[str, Tensor]], random: Sequence[Tensor]
) -> Turned:
    """Bring the states of matrices of one shape up to date: `momentum_buffer` (m, k), `skipped`, and for the scaling of
    that name `energy` (k, k).

    A matrix whose sketches are not finite, or too large to be squared, gets an update of zeros and keeps all else;
    `skipped` counts such steps.

    Args:
        random: of each matrix (n, r), directions that take the place of the r weakest.
    """
    for member, state in zip(members, states):
        if not state:
            state["momentum_buffer"] = torch.zeros_like(member.left)
            state["skipped"] = member.left.new_zeros(())
            if group["scaling"] == "energy":
                state["energy"] = member.left.new_zeros(member.left.size(1), member.left.size(1))
    left, right = (torch.stack([tensors[index].detach() for tensors in members]) for index in (1, 2))
    seen = torch.stack(_gradients(members, 1))
    followed = torch.stack(found) if (found := _gradients(members, 2)) else None
    finite = seen.norm(dim=(1, 2)).isfinite()
    if followed is not None:
        finite = finite & followed.norm(dim=(1, 2)).isfinite()
    finite = finite[:, None, None]
    seen = torch.where(finite, seen, 0)

    before = torch.stack([state["momentum_buffer"] for state in states])
    momentum = before.lerp(seen, 1 - group["momentum"])
    ahead = seen.lerp(momentum, group["momentum"])
    directions, inverse = _principal(ahead.mT @ ahead)
    kept, update = {"momentum_buffer": momentum}, ahead
    if group["scaling"] == "muon":
        update = ahead @ directions * inverse @ directions.mT
    elif group["scaling"] == "energy":
        kept["energy"] = torch.stack([state["energy"] for state in states])
        kept["energy"] = kept["energy"].lerp(seen.mT @ seen, 1 - group["warm_start_decay"])
        axes, inverse_energy = _principal(kept["energy"])
        update = ahead @ axes * inverse_energy @ axes.mT
    norm = update.flatten(1).norm(dim=1).clamp_min(SMALLEST_NORM)
    update = update * min(left.size(1), right.size(1)) ** 0.5 / norm[:, None, None]

    if followed is None:
        turned = right @ directions
    else:  # the mean of the gradients' G^T V
        decay = group["warm_start_decay"]
        turned = decay * right @ (before.mT @ left) + (1 - decay) * torch.where(finite, followed, 0)
    if random[0].numel():
        turned = torch.cat((turned[..., : -random[0].size(-1)], torch.stack(list(random))), dim=-1)
    next_right = torch.linalg.qr(turned)[0]
    kept = _carried(kept, right.mT @ next_right)
    for index, (state, was_finite) in enumerate(zip(states, finite)):
        for name, values in kept.items():
            torch.where(was_finite, values[index], state[name], out=state[name])
        state["skipped"] += ~was_finite.view(())
    next_left = torch.linalg.qr(ahead @ directions)[0]
    return Turned(update * finite, torch.where(finite, next_left, left), torch.where(finite, next_right, right))


def _carried(state: dict[str, Tensor], turn: Tensor) -> dict[str, Tensor]:
    """The state in the coordinates of another subspace; `turn` (k, k') leads to it."""
    carried = {"momentum_buffer": state["momentum_buffer"] @ turn}
    if "energy" in state:
        carried["energy"] = turn.mT @ state["energy"] @ turn
    return carried


def _random(right: Tensor, seed: str) -> Tensor:
    """Directions (n, renewed) for a step, the same for the same seed whichever rank asks; none in a whole space."""
    rows, rank = right.shape
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
    count = 1 if right.requires_grad else -(-rank // RENEWED)
    count = count if rank < rows else 0
    return torch.randn(rows, count, generator=generator).to(right.device)


def _resized(basis: Tensor, rank: int) -> Tensor:
    """An orthonormal basis (n, rank) of the strongest directions of `basis` (n, k), and random ones beyond them."""
    generator = torch.Generator().manual_seed(rank)
    more = torch.randn(len(basis), max(0, rank - basis.size(1)), generator=generator).to(basis.device)
    return torch.linalg.qr(torch.cat((basis[:, :rank], more), dim=1))[0]


def _gradients(members: Sequence[LowRank], index: int) -> list[Tensor]:
    return [grad for member in members if (grad := member[index].grad) is not None]


def _principal(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvectors (K, k, k) of symmetric matrices, the strongest first, and 1 / sqrt(eigenvalues) (K, 1, k)."""
    tiny = torch.finfo(gram.dtype).tiny
    size = gram.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(tiny)[:, None, None]
    squares, vectors = torch.linalg.eigh(gram / size)
    squares = squares.flip(-1).unsqueeze(-2)
    squares = squares.maximum(SMALLEST_SHARE * squares[..., :1]) * size
    return vectors.flip(-1), squares.clamp_min(tiny).rsqrt()
