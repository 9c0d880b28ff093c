"""The tables behind the documents: world.yaml, what there is and what is true, and wordings.yaml, how it is said."""

from pathlib import Path
from typing import Any

import yaml


def _read(name: str) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, where PyYAML was built with it
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return {key: _frozen(value) for key, value in yaml.load(text, loader).items()}


def _frozen(value: Any) -> Any:
    """A list, or a block of lines, as a tuple."""
    if isinstance(value, dict):
        return {key: _frozen(each) for key, each in value.items()}
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return tuple(value.splitlines()) if isinstance(value, str) and value.endswith("\n") else value


WORLD = _read("world.yaml")
WORDINGS = _read("wordings.yaml")
