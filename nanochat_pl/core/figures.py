"""Numbers as people read them."""

import math


def figure(value: float | str) -> str:
    """With four digits; text as it is."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def number(value: float) -> str:
    """With three digits: "1.31M"."""
    if not math.isfinite(value) or abs(value) < 10_000:
        return f"{value:,.0f}"
    exponent = int(math.log10(float(f"{abs(value):.3g}"))) // 3
    return f"{value / 1000**exponent:.3g}{'kMBTPE'[exponent - 1]}"


def size(num_bytes: float) -> str:
    """Bytes with three digits: "1.31 MB"."""
    rounded = float(f"{num_bytes:.3g}")
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(rounded) >= factor:
            return f"{rounded / factor:.3g} {unit}"
    return f"{num_bytes:.0f} bytes"


def duration(seconds: float) -> str:
    """In the two largest units: "2 h 03 min"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02} min"
