"""Large numbers on the command line: 2e9, 100_000, 50M."""

import typer

_UNITS = {"k": 10**3, "m": 10**6, "b": 10**9}


def parse_quantity(text: str) -> int:
    """The whole number from 1 on that `text` means; raises typer's error for anything else."""
    digits = str(text).strip().lower()
    factor = _UNITS.get(digits[-1:], 1)
    try:
        value = float(digits[:-1] if factor > 1 else digits) * factor
        if value == int(value) and value >= 1:
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise typer.BadParameter(f"{text!r} is not a whole number from 1 on, such as 100000, 2e9 or 50M.")
