"""Sections of the configuration made into objects, every argument checked."""

import typing
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.imported import imported
from nanochat_pl.core.spec import call_checked, checked, checked_arguments
from nanochat_pl.optim.foreign import ForeignSpec, Part


def construct(section: DictConfig, name: str) -> Any:
    """Call the section's `_target_` with the section's other keys, checked against its signature.

    Stricter than `hydra.utils.instantiate`: types are checked too, and no DictConfig goes through.

    Raises:
        UserError: an unknown key or a wrong type, named as the user spells it.
    """
    target, values = _target(section, name)
    return call_checked(target, values, name)


def construct_optimizer(section: DictConfig) -> Any:
    """The section `optim`; a class of optimizers, as torch.optim has them, is trained with as it stands.

    Beside its own arguments it may have `grad_clip`, and under `others` a second one, for what is no matrix.

    Raises:
        UserError: as `construct`, or the class cannot train with these arguments.
    """
    target, values = _target(section, "optim")
    if not _is_optimizer(target):
        return call_checked(target, values, "optim")
    values.pop("others", None)
    grad_clip = checked(values.pop("grad_clip", None), float | None, "optim.grad_clip")
    first = Part(section._target_, target, checked_arguments(target, values, "optim", given=("params",)))
    if section.get("others") is None:
        return ForeignSpec(first, grad_clip=grad_clip)
    target, values = _target(section.others, "optim.others")
    if not _is_optimizer(target):
        raise UserError("optim.others._target_ is no class of optimizers; choose one such as torch.optim.AdamW.")
    arguments = checked_arguments(target, values, "optim.others", given=("params",))
    return ForeignSpec(first, Part(section.others._target_, target, arguments), grad_clip)


def _is_optimizer(target: Any) -> bool:
    return isinstance(target, type) and issubclass(target, Optimizer)


def _target(section: DictConfig, name: str) -> tuple[Any, dict[str, Any]]:
    """What the section's `_target_` names, and its other keys."""
    values = typing.cast(dict[str, Any], OmegaConf.to_container(section, resolve=True))
    return imported(str(values.pop("_target_", "")), f"{name}._target_"), values


def construct_all(sections: DictConfig | None, name: str) -> list[Any]:
    """The parts of a group of named sections, in their order; one that is null is left out."""
    return [construct(part, f"{name}.{key!s}") for key, part in (sections or {}).items() if part is not None]
