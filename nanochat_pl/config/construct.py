"""Sections of the configuration made into objects, every argument checked."""

import inspect
import typing
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.spec import checked


def construct(section: DictConfig, name: str) -> Any:
    """Call the section's `_target_` with the section's other keys, checked against its signature.

    Stricter than `hydra.utils.instantiate`: types are checked too, and no DictConfig goes through.

    Raises:
        UserError: an unknown key or a wrong type, named as the user spells it.
    """
    values = typing.cast(dict[str, Any], OmegaConf.to_container(section, resolve=True))
    target = get_object(values.pop("_target_"))
    parameters = inspect.signature(target).parameters
    for key in values:
        if key not in parameters:
            raise UserError(
                f"There is no option {name}.{key}{nearest(key, list(parameters))} Legal: {', '.join(parameters)}."
            )
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    values = {key: checked(value, hints.get(key, Any), f"{name}.{key}") for key, value in values.items()}
    return target(**values)
