"""Sections of the configuration made into objects, every argument checked."""

import typing
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from nanochat_pl.core.spec import call_checked


def construct(section: DictConfig, name: str) -> Any:
    """Call the section's `_target_` with the section's other keys, checked against its signature.

    Stricter than `hydra.utils.instantiate`: types are checked too, and no DictConfig goes through.

    Raises:
        UserError: an unknown key or a wrong type, named as the user spells it.
    """
    values = typing.cast(dict[str, Any], OmegaConf.to_container(section, resolve=True))
    return call_checked(get_object(values.pop("_target_")), values, name)


def construct_all(sections: DictConfig, name: str) -> list[Any]:
    """The parts of a group of named sections, in their order; one that is null is left out."""
    return [construct(part, f"{name}.{key!s}") for key, part in sections.items() if part is not None]
