"""How two saved models differ: their configurations and their weights."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nanochat_pl.checkpoint.contents import Contents


@dataclass(frozen=True)
class Change:
    """Of one parameter.

    Attributes:
        relative: norm of the difference over the norm of the first; infinite where that is 0, or either is not finite.
    """

    name: str
    role: str
    relative: float


@dataclass(frozen=True)
class Difference:
    """Between a first and a second.

    Attributes:
        config: option -> its two values, where they differ; None: it is not there.
        shapes: weight -> its two shapes, where they differ; None: it is not there.
        changes: of the weights that both have in the same shape, the largest first.
        by_role: role -> the change of all its weights together, as one vector.
    """

    config: dict[str, tuple[Any, Any]]
    shapes: dict[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]]
    changes: list[Change]
    by_role: dict[str, float]


def difference(first: Contents, second: Contents) -> Difference:
    """Compare configurations and weights.

    Raises:
        UserError: there is no model of the first's configuration.
    """
    roles, changes, shapes = first.roles(), [], {}
    squares: dict[str, tuple[float, float]] = {}
    for name in sorted(first.weights.keys() | second.weights.keys()):
        before, after = first.weights.get(name), second.weights.get(name)
        if before is None or after is None or before.shape != after.shape:
            shapes[name] = (_shape(before), _shape(after))
            continue
        changed, norm = float((after.double() - before.double()).norm()), float(before.double().norm())
        role = roles.get(name, "other")
        changes.append(Change(name, role, _ratio(changed, norm)))
        so_far = squares.get(role, (0.0, 0.0))
        squares[role] = (so_far[0] + changed**2, so_far[1] + norm**2)
    config = {
        key: (first.config.get(key), second.config.get(key))
        for key in sorted(first.config.keys() | second.config.keys())
        if first.config.get(key) != second.config.get(key)
    }
    by_role = {role: _ratio(math.sqrt(changed), math.sqrt(norm)) for role, (changed, norm) in squares.items()}
    return Difference(config, shapes, sorted(changes, key=lambda change: -change.relative), by_role)


def _ratio(changed: float, norm: float) -> float:
    if changed == 0:
        return 0.0
    return changed / norm if norm and math.isfinite(changed) else math.inf


def _shape(weight: Tensor | None) -> tuple[int, ...] | None:
    return None if weight is None else tuple(weight.shape)
