"""A configuration by the dotted names of its options."""

from typing import Any


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys."""
    if not isinstance(values, dict):
        return {prefix[:-1]: values}
    return {key: value for name, part in values.items() for key, value in flat(part, f"{prefix}{name}.").items()}
