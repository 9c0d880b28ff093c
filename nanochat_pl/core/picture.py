"""Pictures as PNG files, all in one style."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat_pl.core.paths import replacing

STYLE: dict[Any, Any] = {
    "axes.grid": True, "grid.alpha": 0.25, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False,
}  # fmt: skip
NO_MATH: dict[Any, Any] = {"text.parse_math": False}
"""A name with two dollars is no formula; not where an axis is logarithmic, whose labels are."""
PALE, DARK, THIRD = "#9db8d9", "#1f4e8c", "#c4622d"


@contextlib.contextmanager
def picture(path: Path, width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[Any]:
    """Yields matplotlib's axes to draw on, an array where there are several; the file is there afterwards.

    Args:
        width, height: in inches, of 120 dots.

    Raises:
        MachineError: the disk is full or not writable.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
        yield figure.subplots(rows, columns, **options)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")
