"""Optimizers of torch, or in its shape, under the stages: any class, or one for matrices and one for the rest."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nanochat_pl.core.errors import UserError
from nanochat_pl.optim.clipping import clip_, grads_of
from nanochat_pl.optim.groups import MATRIX, in_own_order

PROBED = 64
"""Rows and columns of the matrix that an optimizer is tried on."""


@dataclass(frozen=True)
class Part:
    """An optimizer's class, the name by which it is known, and its arguments, all but the parameters."""

    name: str
    kind: type[Optimizer]
    arguments: Mapping[str, Any]

    def build(self, groups: list[dict[str, Any]]) -> Optimizer:
        """Fused, where it can be and nothing else is asked for."""
        chosen = any(self.arguments.get(name) is not None for name in ("fused", "foreach", "differentiable"))
        if "fused" in inspect.signature(self.kind).parameters and not chosen:
            with contextlib.suppress(RuntimeError):
                return self.kind([dict(group) for group in groups], **{**self.arguments, "fused": True})
        return self.kind(groups, **self.arguments)


@dataclass(frozen=True)
class ForeignSpec:
    """conf/optim where its `_target_` is a class of optimizers, such as torch.optim.AdamW.

    Parameters of two dimensions and more decay, others (biases, gains) don't, as in nanoGPT. Rates and decays are those
    that are given, times the horizon's `lr_scale` and `weight_decay_scale`. Every process holds and updates everything.

    Attributes:
        first: trains everything, or the matrices where there are `others`.
        others: trains what is no matrix: tables and vectors.
        grad_clip: largest norm of all gradients together; None does not clip.

    Raises:
        UserError: the class cannot train a small model with these arguments.
    """

    first: Part
    others: Part | None = None
    grad_clip: float | None = None

    is_sharded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise UserError(f"optim.grad_clip is {self.grad_clip}; it must be above 0, or null for no clipping.")
        self._bytes_per_element  # noqa: B018 - tries it

    def build(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        roles: Mapping[str, str],
        *,
        width: int,
        batch_lr_scale: float = 1.0,
        weight_decay_scale: float = 1.0,
        process_group: Any = None,
        low_rank: Mapping[str, Any] | None = None,
        low_rank_values: Mapping[str, Any] | None = None,
    ) -> "ForeignOptimizer":
        """The optimizer; `width` and `process_group` change nothing here.

        Raises:
            UserError: there are matrices that have sketches of their gradient only.
        """
        if low_rank:
            raise UserError(
                f"streaming.enabled=true keeps no gradients that {self.first.name} could use. Choose optim=muon_adamw, "
                "or streaming.enabled=false."
            )
        groups = _groups(named_parameters, roles)
        if not groups:
            raise UserError("The model has no parameter that requires a gradient, so there is nothing to optimize.")
        of_first = [group for group in groups if self.others is None or group["role"] == MATRIX]
        dealt = [(self.first, of_first)]
        if self.others is not None:
            dealt.append((self.others, [group for group in groups if group["role"] != MATRIX]))
        optimizer = ForeignOptimizer([(part, own) for part, own in dealt if own], self.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] *= batch_lr_scale
            group["weight_decay"] = weight_decay_scale * group.get("weight_decay", 0.0) if group.pop("decays") else 0.0
        return optimizer

    def state_bytes(self, parameters_by_role: Mapping[str, int], world_size: int) -> int:
        """That each process keeps, by what a small trial kept for each element."""
        matrices = parameters_by_role[MATRIX]
        of_matrices, of_others = self._bytes_per_element
        return round(matrices * of_matrices + (sum(parameters_by_role.values()) - matrices) * of_others)

    @functools.cached_property
    def _bytes_per_element(self) -> tuple[float, float]:
        """Of the state of a matrix and of a table; on a GPU where a CPU does not do."""
        try:
            return self._try_on("cpu")
        except Exception as error:  # whatever a class makes of its arguments
            failure = error
        if torch.cuda.is_available() and not isinstance(failure, TypeError | ValueError):
            try:
                return self._try_on("cuda")
            except Exception as error:
                failure = error
        names = " and ".join(part.name for part in (self.first, self.others) if part)
        raise UserError(f"{names} cannot train with the options of optim: {failure}") from failure

    def _try_on(self, device: str) -> tuple[float, float]:
        """What is kept for each element of a matrix and of a table, after a step of a small model."""
        shapes = {"matrix": (PROBED, PROBED), "embedding": (PROBED, PROBED), "vector": (1,)}
        parameters = {name: nn.Parameter(torch.ones(shape, device=device)) for name, shape in shapes.items()}
        for p in parameters.values():
            p.grad = torch.ones_like(p)
        optimizer = self.build(parameters.items(), {name: name for name in parameters}, width=PROBED)
        optimizer.step()
        matrix, table = parameters["matrix"], parameters["embedding"]
        of_matrix, of_table = (
            sum(value.nbytes for value in optimizer.state[p].values() if isinstance(value, Tensor) and value.ndim)
            for p in (matrix, table)
        )
        return of_matrix / matrix.numel(), of_table / table.numel()


class ForeignOptimizer(Optimizer):
    """One optimizer made of several, each with groups of its own, in the order of `parts`.

    Parameters of a lower precision than float32, in which small updates would be lost, are kept in float32 beside:
    `master` in their state.

    Args:
        parts: with their groups of parameters with names.
        grad_clip: see ForeignSpec; it scales the gradients in place.
    """

    def __init__(self, parts: Sequence[tuple[Part, list[dict[str, Any]]]], grad_clip: float | None = None):
        super().__init__([group for _, groups in parts for group in groups], defaults={})
        self.grad_clip = grad_clip
        self._members: list[tuple[Optimizer, slice]] = []
        own, start = self.param_groups, 0
        for part, groups in parts:
            place = slice(start, start + len(groups))
            member = part.build(own[place])
            self.state.update(member.state)  # what some classes make at once
            own[place] = [{**group, "optimizer": part.name} for group in member.param_groups]
            self._members.append((member, place))
            start = place.stop
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient; returns what `closure` returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        clip_(grads_of(self._params()), self.grad_clip)
        with self._in_float32():
            for member, _ in self._members:
                member.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore state and groups; parameters are matched by name. The state keeps its dtypes, and is copied."""
        saved = in_own_order(self.param_groups, state_dict)
        super().load_state_dict({**saved, "state": {}})
        owners = [(p, group) for group in self.param_groups for p in group["params"]]
        for index, values in saved["state"].items():
            p, group = owners[index]
            on_device = group.get("fused") or group.get("capturable")
            self.state[p] = {
                name: value.detach().to(p.device if on_device or name != "step" else "cpu", copy=True)
                if isinstance(value, Tensor)
                else value
                for name, value in values.items()
            }
        self._share()

    def _share(self) -> None:
        """Let the members work on this optimizer's groups and state."""
        for member, place in self._members:
            member.param_groups, member.state = self.param_groups[place], self.state

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    @contextlib.contextmanager
    def _in_float32(self) -> Iterator[None]:
        """Meanwhile parameters of a lower precision are what is kept of them in float32."""
        low = [(p, p.data, p.grad) for p in self._params() if p.grad is not None and p.dtype != torch.float32]
        for p, data, grad in low:
            master = self.state[p].pop("master") if "master" in self.state[p] else data.float()
            p.grad, p.data = None, master
            p.grad = grad.float()
        yield
        for p, data, grad in low:
            self.state[p]["master"] = p.data
            data.copy_(p.data)
            p.grad, p.data = None, data
            p.grad = grad


def _groups(named_parameters: Iterable[tuple[str, nn.Parameter]], roles: Mapping[str, str]) -> list[dict[str, Any]]:
    """One group a role; where a role has parameters that decay and others, these are apart."""
    groups: dict[tuple[str, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, p in named_parameters:
        if p.requires_grad:
            groups.setdefault((roles[name], p.ndim >= 2), []).append((name, p))
    return [
        {
            "role": role if decays or (role, True) not in groups else f"{role}_undecayed",
            "decays": decays,
            "params": params,
        }
        for (role, decays), params in groups.items()
    ]
