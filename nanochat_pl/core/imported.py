"""The user's own code, by the dotted path that a configuration names."""

import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import UserError, nearest


def find_own_modules() -> None:
    """Let modules in the folder that the command was given in be found; Python looks there for `python -m` alone."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def imported(path: str, where: str) -> Any:
    """What a dotted path names: a module's class or function, or a part of one.

    Args:
        where: the option that names it.

    Raises:
        UserError: there is no such thing, with the nearest name that there is; or its module cannot be imported.
    """
    known, found = "", None
    for word in path.split("."):
        name = f"{known}.{word}" if known else word
        if found is not None and hasattr(found, word):
            found = getattr(found, word)
        elif found is None or hasattr(found, "__path__"):
            found = _module(name, known, path, where)
        else:
            raise _unknown(path, where, known, word, dir(found))
        known = name
    return found


def _module(name: str, parent: str, path: str, where: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # it is there, and needs another one
            raise _broken(name, path, where, error) from error
        package = sys.modules.get(parent)
        folders = getattr(package, "__path__", None)
        names = [module.name for module in pkgutil.iter_modules(folders)] + (dir(package) if package else [])
        raise _unknown(path, where, parent, name.rpartition(".")[2], names) from error
    except Exception as error:  # the user's own code may raise anything
        raise _broken(name, path, where, error) from error


def _unknown(path: str, where: str, parent: str, word: str, names: list[str]) -> UserError:
    hint = nearest(word, sorted({name for name in names if not name.startswith("_")}))
    if parent:
        whole = hint.replace("'", f"'{parent}.", 1)
        return UserError(f"{where} is '{path}', but there is no '{word}' in {parent}{whole}")
    return UserError(
        f"{where} is '{path}', but there is no module '{word}'{hint} Modules of your own are found in the folder that "
        f"the command is given in ({Path.cwd()}), and where PYTHONPATH says."
    )


def _broken(name: str, path: str, where: str, error: Exception) -> UserError:
    place = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
    return UserError(
        f"{where} is '{path}', but the module {name} cannot be imported: {type(error).__name__}: {error}{place}."
    )
