"""MuonAdamW: Muon for matrices, AdamW for everything else, in one optimizer."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.spec import Spec
from nanochat_pl.optim.groups import MATRIX, build_param_groups
from nanochat_pl.optim.orthogonalize import POLAR_EXPRESS, equilibrate_rows_, polar_express_, renormalize_

SMALLEST_VARIANCE = 1e-10
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
    eps: float = 1e-10
    grad_clip: float | None = None
    param_clip: float | None = None

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
        weight_decay: float | None = None,
    ) -> "MuonAdamW":
        """The optimizer; the arguments are those of `build_param_groups`."""
        groups = build_param_groups(
            named_parameters, roles, self, width=width, batch_lr_scale=batch_lr_scale, weight_decay=weight_decay
        )
        return MuonAdamW(groups, grad_clip=self.grad_clip, param_clip=self.param_clip)


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the group of role `matrix`, AdamW for the others (Loshchilov and Hutter, arXiv 1711.05101).

    Muon (Jordan, kellerjordan.github.io/posts/muon): Nesterov momentum, orthogonalised; the variants are those of
    nanochat. Matrices of one shape are stacked and updated together, at most WORKSPACE_BYTES at a time. Arithmetic and
    state are float32, whatever the parameters' dtype. State is kept per parameter: `momentum_buffer` and `variance` (of
    each neuron on the longer side) for matrices; `step`, `exp_avg`, `exp_avg_sq` else.

    Args:
        param_groups: from `build_param_groups`; `lr`, `momentum` and `weight_decay` are read at every step.
        grad_clip, param_clip: see MuonAdamWSpec. Clipping scales the gradients in place.
    """

    def __init__(
        self, param_groups: list[dict[str, Any]], *, grad_clip: float | None = None, param_clip: float | None = None
    ):
        super().__init__(param_groups, defaults={})
        self.grad_clip = grad_clip
        self.param_clip = param_clip

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient; returns what `closure` returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._clip()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if group["role"] == MATRIX:
                for chunk in _chunks_of_one_shape(params):
                    self._muon(group, chunk)
            elif params:
                self._adamw(group, params)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore state and groups; parameters are matched by name, whatever their order was.

        The moments keep their float32 (torch's own casts them to the parameter's dtype), and are copied.
        """
        saved = self._in_own_order(state_dict)
        super().load_state_dict({**saved, "state": {}})
        params = [p for group in self.param_groups for p in group["params"]]
        for index, values in saved["state"].items():
            device = params[index].device
            self.state[params[index]] = {name: value.detach().to(device, copy=True) for name, value in values.items()}

    def consolidate_state_dict(self, to: int = 0) -> None:
        """Gather on rank `to` what the ranks hold of the state; nothing to do where every rank holds all of it."""

    def _in_own_order(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """`state_dict` with groups and indices as this optimizer has them."""
        names = {
            index: name
            for group in state_dict["param_groups"]
            for index, name in zip(group["params"], group["param_names"])
        }
        own = [name for group in self.param_groups for name in group["param_names"]]
        if sorted(names.values()) != sorted(own):
            differing = sorted(set(own) ^ set(names.values()))
            raise UserError(
                f"The saved optimizer state belongs to another model: it differs in {', '.join(differing[:5])}. Resume "
                "with the model's options of the saved run, or start a fresh run."
            )
        positions = {name: position for position, name in enumerate(own)}
        by_role = {group["role"]: group for group in state_dict["param_groups"]}
        groups = []
        for group in self.param_groups:
            indices = [positions[name] for name in group["param_names"]]
            groups.append({**by_role[group["role"]], "params": indices, "param_names": group["param_names"]})
        state = {positions[names[index]]: values for index, values in state_dict["state"].items()}
        return {**state_dict, "state": state, "param_groups": groups}

    def _clip(self) -> None:
        if self.param_clip is None and self.grad_clip is None:
            return
        grads = _grads([p for group in self.param_groups for p in group["params"]])
        if not grads:
            return
        norms = torch._foreach_norm(grads, 2, dtype=torch.float32)
        if self.param_clip is not None:
            scales = [(self.param_clip / (norm + 1e-6)).clamp_(max=1.0) for norm in norms]
            torch._foreach_mul_(grads, scales)
            torch._foreach_mul_(norms, scales)
        if self.grad_clip is not None:
            total = torch.stack(norms).norm()
            torch._foreach_mul_(grads, (self.grad_clip / (total + 1e-6)).clamp_(max=1.0))

    def _adamw(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p, dtype=torch.float32),
                    "exp_avg_sq": torch.zeros_like(p, dtype=torch.float32),
                }
        states = [self.state[p] for p in params]
        masters = [p.float() for p in params]
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            masters,
            [grad.float() for grad in _grads(params)],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )
        for p, master in zip(params, masters):
            if master is not p:
                p.copy_(master)

    def _muon(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Update matrices of one shape."""
        rows, cols = params[0].shape
        neurons = -1 if rows >= cols else -2
        for p in params:
            if not self.state[p]:
                self.state[p] = {"momentum_buffer": torch.zeros_like(p, dtype=torch.float32)}
                if group["variance_normalize"]:
                    self.state[p]["variance"] = p.new_zeros(
                        (rows, 1) if neurons == -1 else (1, cols), dtype=torch.float32
                    )
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        update = torch.empty((len(params), rows, cols), dtype=torch.float32, device=params[0].device)
        views = list(update.unbind())
        torch._foreach_copy_(views, _grads(params))
        torch._foreach_lerp_(buffers, views, 1 - group["momentum"])
        torch._foreach_lerp_(views, buffers, group["momentum"])

        in_bfloat16 = update.is_cuda if group["bfloat16_updates"] is None else group["bfloat16_updates"]
        working = update.bfloat16() if in_bfloat16 else update
        if group["equilibrate"]:
            equilibrate_rows_(working)
        polar_express_(working, group["ns_steps"])
        if working is not update:
            update.copy_(working)
        if group["renormalize"]:
            renormalize_(update)
        if group["variance_normalize"]:
            self._normalize_variance_(update, [self.state[p]["variance"] for p in params], group["beta2"], neurons)

        lr = group["lr"] * max(1.0, rows / cols) ** 0.5
        if group["weight_decay"]:
            decay = torch.stack(params).float()
            if group["cautious"]:
                decay.mul_(update.mul(decay).ge_(0))
            update.add_(decay, alpha=group["weight_decay"])
        torch._foreach_add_(params, views, alpha=-lr)

    @staticmethod
    def _normalize_variance_(update: Tensor, variances: list[Tensor], beta2: float, neurons: int) -> None:
        """Divide each neuron's update by its running root mean square, keeping the matrix's norm."""
        mean_square = update.square().mean(dim=neurons, keepdim=True)
        torch._foreach_lerp_(variances, list(mean_square.unbind()), 1 - beta2)
        scale = torch.stack(variances).clamp_min_(SMALLEST_VARIANCE).rsqrt_()
        norm = mean_square.sum(dim=(-2, -1), keepdim=True).sqrt()
        norm_after = mean_square.mul(scale.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
        update.mul_(scale.mul_(norm / norm_after.clamp_min_(SMALLEST_VARIANCE)))


def _grads(params: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


def _chunks_of_one_shape(params: list[Tensor]) -> Iterable[list[Tensor]]:
    """The matrices by shape, in pieces whose workspace is bounded."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for p in params:
        by_shape.setdefault(p.shape, []).append(p)
    for same in by_shape.values():
        workspace = WORKSPACE_BYTES["cuda" if same[0].is_cuda else "cpu"]
        size = max(1, workspace // (4 * same[0].numel()))
        for start in range(0, len(same), size):
            yield same[start : start + size]
