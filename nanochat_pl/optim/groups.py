"""From named parameters and their roles to the optimizer's parameter groups."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.types import LowRank

REFERENCE_WIDTH = 768
MATRIX = "matrix"
LOW_RANK = "low_rank"


class OptimizerRecipe(Protocol):
    """What the groups need of a MuonAdamWSpec."""

    @property
    def eps(self) -> float: ...

    def rows(self) -> Mapping[str, Any]: ...

    def matrix_values(self) -> Mapping[str, Any]: ...


def build_param_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    roles: Mapping[str, str],
    recipe: OptimizerRecipe,
    *,
    width: int,
    batch_lr_scale: float = 1.0,
    weight_decay: float | None = None,
    low_rank: Mapping[str, LowRank] | None = None,
    low_rank_values: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """One group a role, in the recipe's order; frozen parameters are left out.

    Args:
        roles: parameter name to role.
        width: n_embd; rates of rows with `scaled_by_width` are multiplied by 1 / sqrt(width / 768).
        batch_lr_scale: multiplies all rates.
        weight_decay: of the matrices, already scaled to the horizon; None takes the recipe's.
        low_rank: of the frozen matrices that have sketches of their gradient; they make a group of their own, with the
            matrices' values and `low_rank_values`, whose parameters are the sketches' NAME.left and NAME.right.

    Raises:
        UserError: a parameter without role, a role without row, or no parameter at all.
    """
    members: dict[str, list[tuple[str, nn.Parameter]]] = {role: [] for role in (MATRIX, *recipe.rows())}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        role = roles.get(name)
        if role not in members:
            raise UserError(
                f"The parameter {name} has the role {role!r}, for which the optimizer's recipe has no row; "
                f"roles: {', '.join(members)}{nearest(str(role), tuple(members))}"
            )
        if role == MATRIX and parameter.ndim != 2:
            raise UserError(
                f"The parameter {name} of shape {tuple(parameter.shape)} is no matrix; give it another role."
            )
        members[role].append((name, parameter))
    if not any(members.values()) and not low_rank:
        raise UserError("The model has no parameter that requires a gradient, so there is nothing to optimize.")
    groups: list[dict[str, Any]] = []
    members[LOW_RANK] = [
        (f"{name}.{side}", getattr(low, side)) for name, low in (low_rank or {}).items() for side in ("left", "right")
    ]
    for role, params in members.items():
        if not params:
            continue
        if role in (MATRIX, LOW_RANK):
            values = dict(recipe.matrix_values()) | (dict(low_rank_values or {}) if role == LOW_RANK else {})
            if weight_decay is not None:
                values["weight_decay"] = weight_decay
        else:
            row = recipe.rows()[role]
            values = dict(lr=row.lr, betas=(row.beta1, row.beta2), eps=recipe.eps, weight_decay=row.weight_decay)
            if row.scaled_by_width:
                values["lr"] = row.lr * (width / REFERENCE_WIDTH) ** -0.5
        values["lr"] *= batch_lr_scale
        groups.append({"role": role, "params": params, **values})
    return groups


def in_own_order(param_groups: Sequence[Mapping[str, Any]], state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """`state_dict` of an optimizer with groups and indices as in `param_groups`, matched by the parameters' names.

    Raises:
        UserError: it is of another model or another optimizer.
    """
    saved = state_dict["param_groups"]
    names = {index: name for group in saved for index, name in zip(group["params"], group["param_names"])}
    own = [name for group in param_groups for name in group["param_names"]]
    if sorted(names.values()) != sorted(own):
        differing = sorted(set(own) ^ set(names.values()))
        raise UserError(
            f"The saved optimizer state belongs to another model: it differs in {', '.join(differing[:5])}. Resume "
            "with the model's options of the saved run, or start a fresh run."
        )
    by_role = {group["role"]: group for group in saved}
    if {group["role"]: group.get("optimizer") for group in param_groups} != {
        role: group.get("optimizer") for role, group in by_role.items()
    }:
        raise UserError(
            "The saved optimizer state belongs to another optimizer. Go on with the optim= of the saved run, or begin "
            "without it: stage.momentum=false, or run.fresh=true."
        )
    positions = {name: position for position, name in enumerate(own)}
    groups = []
    for group in param_groups:
        indices = [positions[name] for name in group["param_names"]]
        groups.append({**by_role[group["role"]], "params": indices, "param_names": group["param_names"]})
    state = {positions[names[index]]: values for index, values in state_dict["state"].items()}
    return {**state_dict, "state": state, "param_groups": groups}
