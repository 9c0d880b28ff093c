"""Sections of the configuration made into objects, every argument checked."""

import typing
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.spec import call_checked


def construct(section: DictConfig, name: str) -> Any:
    """Call the section's `_target_` with the section's other keys, checked against its signature.

    Stricter than `hydra.utils.instantiate`: types are checked too, and no DictConfig goes through.

    Raises:
        UserError: an unknown key or a wrong type, named as the user spells it.
    """
    values = typing.cast(dict[str, Any], OmegaConf.to_container(section, resolve=True))
    path = values.pop("_target_")
    try:
        target = get_object(path)
    except ImportError as error:
        raise UserError(f"{name}._target_ is {path!r}, which cannot be imported: {error}") from error
    return call_checked(target, values, name)


def construct_all(sections: DictConfig | None, name: str) -> list[Any]:
    """The parts of a group of named sections, in their order; one that is null is left out."""
    return [construct(part, f"{name}.{key!s}") for key, part in (sections or {}).items() if part is not None]
