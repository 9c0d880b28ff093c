"""MuonAdamW: Muon for matrices, AdamW for everything else, in one optimizer."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.spec import Spec
from nanochat_pl.core.types import LowRank
from nanochat_pl.optim.clipping import clip_, grads_of
from nanochat_pl.optim.groups import LOW_RANK, MATRIX, build_param_groups, in_own_order
from nanochat_pl.optim.low_rank import LowRankMatrices
from nanochat_pl.optim.orthogonalize import POLAR_EXPRESS
from nanochat_pl.optim.sharding import Sharding
from nanochat_pl.optim.updates import adamw_, muon_

WORKSPACE_BYTES = {"cpu": 32 << 20, "cuda": 512 << 20}


def _check_ranges(spec: Spec, nonnegative: tuple[str, ...], below_one: tuple[str, ...]) -> None:
    for name in nonnegative:
        if not 0 <= getattr(spec, name) < float("inf"):
            raise UserError(f"{type(spec).__name__}.{name} is {getattr(spec, name)}; it must be 0 or more.")
    for name in below_one:
        if not 0 <= getattr(spec, name) < 1:
            raise UserError(f"{type(spec).__name__}.{name} is {getattr(spec, name)}; it must be from 0 to below 1.")


@dataclass(frozen=True)
class AdamWRow(Spec):
    """The recipe of one role: `lr` at width 768 and the reference batch, betas, decoupled weight decay."""

    lr: float
    beta1: float
    beta2: float
    weight_decay: float
    scaled_by_width: bool = False

    def check(self) -> None:
        _check_ranges(self, ("lr", "weight_decay"), ("beta1", "beta2"))


@dataclass(frozen=True)
class MuonAdamWSpec(Spec):
    """conf/optim: the recipe, nanochat's by default. All rates hold for width 768 and batches of 2^19 tokens.

    Attributes:
        lr, momentum, beta2, weight_decay: of the matrices; the rate is multiplied by sqrt(max(1, rows / cols)), the
            schedule sets the momentum, beta2 belongs to the variance normalisation.
        ns_steps: Polar Express steps, 1 to 5.
        equilibrate: rows of equal norm before the orthogonalisation.
        renormalize: Frobenius norm sqrt(min(rows, cols)) after it.
        variance_normalize: NorMuon's running scale of each neuron (arXiv 2510.05491).
        cautious: weight decay only where it has the sign of the update.
        bfloat16_updates: orthogonalise in bfloat16 (None: on CUDA).
        eps: of AdamW.
        grad_clip: largest norm of all gradients together; None does not clip.
        param_clip: largest norm of each parameter's gradient; None does not clip.
    """

    lr: float = 0.02
    momentum: float = 0.95
    beta2: float = 0.9
    weight_decay: float = 0.28
    ns_steps: int = 5
    equilibrate: bool = True
    renormalize: bool = True
    variance_normalize: bool = True
    cautious: bool = True
    bfloat16_updates: bool | None = None
    unembedding: AdamWRow = AdamWRow(0.008, 0.8, 0.96, 0.01, scaled_by_width=True)
    embedding: AdamWRow = AdamWRow(0.3, 0.8, 0.995, 0.001, scaled_by_width=True)
    value_embedding: AdamWRow = AdamWRow(0.15, 0.8, 0.995, 0.01, scaled_by_width=True)
    resid_scalar: AdamWRow = AdamWRow(0.005, 0.8, 0.95, 0.05)
    x0_scalar: AdamWRow = AdamWRow(0.5, 0.96, 0.95, 0.0)
    gate: AdamWRow = AdamWRow(0.2, 0.8, 0.95, 0.0)
    vector: AdamWRow = AdamWRow(0.01, 0.8, 0.95, 0.0)
    eps: float = 1e-10
    grad_clip: float | None = None
    param_clip: float | None = None

    is_sharded: ClassVar[bool] = True

    def check(self) -> None:
        _check_ranges(self, ("lr", "weight_decay"), ("momentum", "beta2"))
        if not 1 <= self.ns_steps <= len(POLAR_EXPRESS):
            raise UserError(f"optim.ns_steps is {self.ns_steps}; legal values: 1 to {len(POLAR_EXPRESS)}.")
        if self.eps <= 0:
            raise UserError(f"optim.eps is {self.eps}; it must be above 0, for example 1e-10.")
        for name in ("grad_clip", "param_clip"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"optim.{name} is {value}; it must be above 0, or null for no clipping.")

    def rows(self) -> dict[str, AdamWRow]:
        """The rows of the roles that AdamW trains."""
        return {name: value for name, value in vars(self).items() if isinstance(value, AdamWRow)}

    def matrix_values(self) -> dict[str, Any]:
        """The values of the matrices' parameter group."""
        names = ("lr", "momentum", "beta2", "weight_decay", "ns_steps")
        switches = ("equilibrate", "renormalize", "variance_normalize", "cautious", "bfloat16_updates")
        return {name: getattr(self, name) for name in (*names, *switches)}

    def build(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        roles: Mapping[str, str],
        *,
        width: int,
        batch_lr_scale: float = 1.0,
        weight_decay_scale: float = 1.0,
        process_group: "dist.ProcessGroup | None" = None,
        low_rank: Mapping[str, LowRank] | None = None,
        low_rank_values: Mapping[str, Any] | None = None,
    ) -> "MuonAdamW":
        """The optimizer; the arguments are those of `build_param_groups` and MuonAdamW.

        Args:
            weight_decay_scale: multiplies the matrices' weight decay.
        """
        groups = build_param_groups(
            named_parameters,
            roles,
            self,
            width=width,
            batch_lr_scale=batch_lr_scale,
            weight_decay=weight_decay_scale * self.weight_decay,
            low_rank=low_rank,
            low_rank_values=low_rank_values,
        )
        return MuonAdamW(
            groups,
            grad_clip=self.grad_clip,
            param_clip=self.param_clip,
            process_group=process_group,
            low_rank=(low_rank or {}).values(),
        )

    def state_bytes(self, parameters_by_role: Mapping[str, int], world_size: int) -> int:
        """That each of the processes keeps: float32 momentum of the matrices, two moments of the rest."""
        matrices = parameters_by_role[MATRIX]
        return (4 * matrices + 8 * (sum(parameters_by_role.values()) - matrices)) // world_size


NANOCHAT = MuonAdamWSpec()


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the group of role `matrix`, AdamW for the others (Loshchilov and Hutter, arXiv 1711.05101), and
    MoleGrad for matrices that have sketches of their gradient only (nn/molegrad.py).

    Muon (Jordan, kellerjordan.github.io/posts/muon): Nesterov momentum, orthogonalised; the variants are those of
    nanochat. Matrices of one shape are stacked and updated together, at most WORKSPACE_BYTES at a time. Arithmetic and
    state are float32, whatever the parameters' dtype. State is kept per parameter: `momentum_buffer` and `variance` (of
    each neuron on the longer side) for matrices; `step`, `exp_avg`, `exp_avg_sq` else.

    With a process group, each rank keeps the state of its part of the parameters (see Sharding) and updates that part;
    then all get all of it, which goes on while the next part is computed. Gradients must be the same on all ranks, as
    DDP leaves them; parameters then are, bit for bit. What is saved does not depend on the number of ranks.

    Args:
        param_groups: from `build_param_groups`; `lr`, `momentum` and `weight_decay` are read at every step.
        grad_clip, param_clip: see MuonAdamWSpec. Clipping scales the gradients in place.
        process_group: the ranks that share the work; None: there is one.
        low_rank: what the tensors of the group of role `low_rank` belong to. Each rank has its own sketches, which are
            averaged here, since DDP does not know them.
    """

    momentum_follows_schedule = True

    def __init__(
        self,
        param_groups: list[dict[str, Any]],
        *,
        grad_clip: float | None = None,
        param_clip: float | None = None,
        process_group: "dist.ProcessGroup | None" = None,
        low_rank: Iterable[LowRank] = (),
    ):
        super().__init__(param_groups, defaults={})
        self.grad_clip = grad_clip
        self.param_clip = param_clip
        self._low_rank = LowRankMatrices(low_rank)
        members: dict[str, list[Tensor]] = {MATRIX: [], LOW_RANK: [], "other": []}
        for group in self.param_groups:
            members[group["role"] if group["role"] in members else "other"] += group["params"]
        self._sharding = Sharding(process_group, members[MATRIX], members["other"], self._low_rank.sketches())
        self._consolidated: dict[int, dict[str, Tensor]] | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient; returns what `closure` returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._consolidated = None
        self._sharding.average([grad for sketches in self._low_rank.sketches() for grad in grads_of(sketches)])
        clipped = self._low_rank.shown_once([p for p in self._params() if p.grad is not None])
        self._low_rank.scale(dict(zip(clipped, clip_(grads_of(clipped), self.grad_clip, self.param_clip))))
        for group in reversed(self.param_groups):  # the matrices last: what takes long hides the tables' gathering
            if group["role"] == LOW_RANK:
                self._low_rank.step(group, self.state, self._sharding)
                continue
            for params in self._chunks(group):
                self._update(group, [p for p in params if self._sharding.owns(p)])
                self._sharding.gather(params)
        self._sharding.wait()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore state and groups; parameters are matched by name, whatever their order was.

        The moments keep their float32 (torch's own casts them to the parameter's dtype), and are copied: of a complete
        state, this rank's part.
        """
        saved = in_own_order(self.param_groups, state_dict)
        super().load_state_dict({**saved, "state": {}})
        params = self._params()
        for index, values in saved["state"].items():
            p = params[index]
            values = self._low_rank.restored(p, values)
            if self._sharding.owns(p):
                own = {name: self._sharding.own(p, value) for name, value in values.items()}
                self.state[p] = {name: value.detach().to(p.device, copy=True) for name, value in own.items()}

    def consolidate_state_dict(self, to: int = 0) -> None:
        """Gather the complete state in rank `to`'s CPU memory, for its next `state_dict()`; all ranks call this."""
        if not self._sharding.is_trivial:
            self._consolidated = self._sharding.consolidate(self._params(), self.state, to)

    def state_dict(self) -> dict[str, Any]:
        """The complete state; with several ranks once, on the one that has gathered it since its last step."""
        saved = super().state_dict()
        if not self._sharding.is_trivial:
            assert self._consolidated is not None, "all ranks call consolidate_state_dict() before state_dict()"
            saved["state"], self._consolidated = self._consolidated, None
        params = self._params()
        saved["state"] = {index: self._low_rank.saved(params[index], state) for index, state in saved["state"].items()}
        return saved

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _chunks(self, group: dict[str, Any]) -> Iterator[list[Tensor]]:
        """The parameters with a gradient, in the pieces that are updated at once, on all ranks together."""
        params = [p for p in group["params"] if p.grad is not None]
        if group["role"] == MATRIX:
            yield from _chunks_of_one_shape(params, self._sharding)
            return
        yield [p for p in params if not self._sharding.is_cut(p)]
        yield from ([p] for p in params if self._sharding.is_cut(p))

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Update what this rank owns of `params`."""
        if params:
            own = self._sharding.own
            update = muon_ if group["role"] == MATRIX else adamw_
            grads = [own(p, grad) for p, grad in zip(params, grads_of(params))]
            update(group, [own(p, p) for p in params], grads, [self.state[p] for p in params])


def _chunks_of_one_shape(matrices: list[Tensor], sharding: Sharding) -> Iterator[list[Tensor]]:
    """The matrices by shape, in pieces whose workspace is bounded on every rank."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for matrix in matrices:
        by_shape.setdefault(matrix.shape, []).append(matrix)
    for same in by_shape.values():
        workspace = WORKSPACE_BYTES["cuda" if same[0].is_cuda else "cpu"]
        size = max(1, workspace // (4 * same[0].numel()))
        yield from sharding.in_rounds(same, size)
