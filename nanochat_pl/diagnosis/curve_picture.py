"""The picture of a loss curve: what was found in it stands where it is seen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat_pl.core.picture import DARK, PALE, picture
from nanochat_pl.diagnosis.patterns import FEWEST, Pattern, Seen

COLOURS = {"error": "#b3261e", "warning": "#b26a00", "info": "#666666", "good": "#666666"}
MOST_MARKS = 20
HEADROOM = 0.35
"""Of the level's range, above it: higher spikes are cut off, and marked at the edge."""


def draw_curve(path: Path, title: str, seen: Seen, patterns: Sequence[Pattern]) -> None:
    """The loss, its running median, the validation loss; the factor of the learning rates below.

    Raises:
        MachineError: it cannot be written.
    """
    curve = seen.train
    healthy = "healthy" if len(curve) >= FEWEST else "too few values to tell"
    found = ", ".join(pattern.name for pattern in patterns[:3]) or healthy
    with picture(path, 9, 5, rows=2, sharex=True, height_ratios=(5, 1)) as (axes, below):
        axes.plot(curve.steps, curve.values, color=PALE, linewidth=0.8, label="training loss")
        axes.plot(curve.steps, curve.level, color=DARK, linewidth=1.6, label="its running median")
        if seen.validation:
            axes.plot(*zip(*seen.validation), color="#3b7d4f", marker="o", markersize=3, label="validation loss")
        _annotate(axes, seen, patterns)
        axes.set_title(f"{title}: {found}", parse_math=False)
        axes.set_ylabel("nats per token")
        axes.legend(loc="upper right")
        if seen.rate:
            below.plot(*zip(*seen.rate), color="#666666")
        below.set(xlabel="optimizer step", ylabel="rate", ylim=(0, None))


def _annotate(axes: Any, seen: Seen, patterns: Sequence[Pattern]) -> None:
    curve = seen.train
    drawn = [*curve.level, curve.values[0], *(value for _, value in seen.validation)]
    if seen.guessing and any(pattern.name == "worse than guessing" for pattern in patterns):
        axes.axhline(seen.guessing, color=COLOURS["error"], linewidth=1, linestyle="--", label="guessing")
        drawn.append(seen.guessing)
    low, high = min(drawn), max(drawn)
    cut_off = any(float(curve.values.max()) > high for pattern in patterns if pattern.steps)
    room = (HEADROOM if cut_off else 0.1) * (high - low or 1.0)
    top = high + room
    axes.set_ylim(low - 0.1 * (high - low or 1.0), top)
    for row, pattern in enumerate(pattern for pattern in patterns if pattern.steps):
        colour = COLOURS[pattern.severity]
        for step in pattern.steps[:MOST_MARKS]:
            if len(pattern.steps) > 1 or pattern.name == "spike":
                value = float(curve.values[abs(curve.steps - step).argmin()])
                axes.plot([step], [min(value, top - 0.1 * room)], marker="v", color=colour, markersize=7)
            else:
                axes.axvline(step, color=colour, linewidth=1, linestyle="--")
        axes.annotate(
            pattern.name, (pattern.steps[0], 0.04 + 0.06 * row), xycoords=("data", "axes fraction"), xytext=(5, 0),
            textcoords="offset points", color=colour, fontsize=9,
        )  # fmt: skip
