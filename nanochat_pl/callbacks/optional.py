"""Packages that only some options need."""

import importlib.util

from nanochat_pl.core.errors import UserError


def needed(package: str, option: str, *, extra: str) -> None:
    """Raise `UserError` with what to install where a package of an option is missing."""
    try:
        is_here = importlib.util.find_spec(package) is not None
    except ValueError:  # what Python says of a module that is barred from being imported
        is_here = False
    if not is_here:
        raise UserError(f"{option} needs the package {package}: pip install 'nanochat-pl[{extra}]' (or '.[{extra}]').")
