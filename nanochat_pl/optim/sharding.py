"""Which rank owns what of the parameters, and how what the ranks own comes together again."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

SMALLEST_TABLE = 1 << 14
"""Elements of the smallest table that is worth cutting up."""


class Sharding:
    """The parts of the parameters, dealt out to the ranks of a process group.

    A matrix has one owner; the costs of the ranks' matrices are balanced, the dearest being dealt first. The rows of a
    large table are cut into one part a rank. Everything else is small: every rank owns all of it. Who owns what follows
    from the shapes and their order alone, so all ranks agree on it.

    Args:
        group: the ranks; None: one rank, which owns everything.
        matrices: 2-d parameters that are updated as wholes.
        others: parameters whose elements are updated each by itself.
        together: tuples of 2-d parameters that have one owner.
    """

    def __init__(
        self,
        group: "dist.ProcessGroup | None",
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        together: Iterable[tuple[Tensor, ...]] = (),
    ):
        self._group = group
        self._rank, self._size = (0, 1) if group is None else (group.rank(), group.size())
        self._parts: dict[Tensor, dict[int, slice]] = {}  # of a parameter that is shared out: owner -> its rows
        self._pending: list[Any] = []
        if self._size == 1:
            return
        loads = [0] * self._size
        for wholes in sorted([*((matrix,) for matrix in matrices), *together], key=_cost, reverse=True):
            owner = loads.index(min(loads))
            loads[owner] += _cost(wholes)
            self._parts |= {whole: {owner: slice(None)} for whole in wholes}
        for table in others:
            if table.ndim == 2 and table.numel() >= SMALLEST_TABLE and len(table) >= self._size:
                edges = [len(table) * rank // self._size for rank in range(self._size + 1)]
                self._parts[table] = {rank: slice(edges[rank], edges[rank + 1]) for rank in range(self._size)}

    @property
    def is_trivial(self) -> bool:
        """Whether this rank owns everything."""
        return not self._parts

    def is_cut(self, p: Tensor) -> bool:
        """Whether `p` is shared out by rows."""
        return len(self._parts.get(p, ())) > 1

    def owns(self, p: Tensor) -> bool:
        """Whether this rank updates any of `p`."""
        return p not in self._parts or self._rank in self._parts[p]

    def own(self, p: Tensor, value: Tensor) -> Tensor:
        """What this rank owns, as a view, of `value`, which has the rows of its `p` or is a scalar."""
        return value if value.ndim == 0 or p not in self._parts else value[self._parts[p][self._rank]]

    def in_rounds(self, matrices: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
        """`matrices` in pieces of at most `size` of each rank; in a piece the ranks take turns, and so in sending."""
        owned: list[list[Tensor]] = [[] for _ in range(self._size)]
        for matrix in matrices:
            owned[next(iter(self._parts[matrix])) if self._parts else 0].append(matrix)
        turns = list(itertools.zip_longest(*owned))
        for start in range(0, len(turns), size):
            yield [matrix for turn in turns[start : start + size] for matrix in turn if matrix is not None]

    def gather(self, params: Iterable[Tensor], gradients: bool = False) -> None:
        """Begin to send every rank what the others have updated; `wait` before the parameters are read.

        Each owner broadcasts its part straight into the parameter (or into its gradient, where an owner has left
        something): no padding where shares differ, no buffers.
        """
        views = [
            (owner, (p.grad if gradients and p.grad is not None else p)[rows])
            for p in params
            for owner, rows in self._parts.get(p, {}).items()
        ]
        if views and views[0][1].is_cuda:  # in one launch, which newer NCCL turns into one AllGatherV
            device = views[0][1].device
            with dist.distributed_c10d._coalescing_manager(self._group, device, async_ops=True) as works:
                for owner, view in views:
                    dist.broadcast(view, group=self._group, group_src=owner, async_op=True)
            self._pending.append(works)
        else:
            for owner, view in views:
                self._pending.append(dist.broadcast(view, group=self._group, group_src=owner, async_op=True))

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors that are there on every rank by their mean."""
        if self._size == 1 or not tensors:
            return
        whole = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(whole, group=self._group)
        parts = whole.div_(self._size).split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view_as(tensor) for part, tensor in zip(parts, tensors)])

    def wait(self) -> None:
        """Until everything that `gather` sends has come."""
        for work in self._pending:
            work.wait()
        self._pending.clear()

    def consolidate(
        self, params: Sequence[Tensor], states: Mapping[Tensor, Mapping[str, Tensor]], to: int
    ) -> dict[int, dict[str, Tensor]] | None:
        """The states of all parameters by their index, on the CPU of rank `to`; None on the others.

        All ranks take part; each holds at most one part of one tensor more than its own.
        """
        shapes = {
            index: {name: (value.shape, value.dtype) for name, value in states[p].items()}
            for index, p in enumerate(params)
            if p in states
        }
        shapes_of: list[Any] = [None] * self._size
        dist.all_gather_object(shapes_of, shapes, group=self._group)
        whole: dict[int, dict[str, Tensor]] = {}
        for index, p in enumerate(params):
            if p not in self._parts:
                if self._rank == to and p in states:
                    whole[index] = {name: value.to("cpu", copy=True) for name, value in states[p].items()}
                continue
            collected: dict[str, list[Tensor]] = {}
            for owner in self._parts[p]:
                for name, (shape, dtype) in shapes_of[owner].get(index, {}).items():
                    part = states[p][name] if owner == self._rank else torch.empty(shape, dtype=dtype, device=p.device)
                    dist.broadcast(part, group=self._group, group_src=owner)
                    if self._rank == to:
                        collected.setdefault(name, []).append(part.to("cpu", copy=True))
            if collected:
                whole[index] = {n: torch.cat(parts) if parts[0].ndim else parts[0] for n, parts in collected.items()}
        return whole if self._rank == to else None


def _cost(matrices: tuple[Tensor, ...]) -> int:
    """Of orthogonalising them, up to a factor."""
    return sum(matrix.numel() * min(matrix.shape) for matrix in matrices)
