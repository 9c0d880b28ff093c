"""The pictures of a sweep."""

from typing import Any

import numpy as np

from nanochat_pl.reporting.fits import Point, PowerLaw, Valley
from nanochat_pl.reporting.pictures import INK, SERIES, Picture, painted

NAMED = len(SERIES)
"""More lines than this have no colours of their own and no names."""
MOST_TICKS = 8


def draw_compute(
    unit: str, curves: dict[str, list[Point]], best: list[Point], law: PowerLaw | str, salt: str
) -> Picture:
    """Each job's losses against its compute, the envelope of all as rings, and the law through it."""

    def paint(axes: Any) -> None:
        for i, (name, points) in enumerate(curves.items()):
            color, label = (SERIES[i], name) if len(curves) <= NAMED else (SERIES[0], None)
            axes.plot(*zip(*sorted(points)), color=color, linewidth=1, alpha=0.7, marker=".", markersize=4, label=label)
        axes.plot(*zip(*best), linestyle="", marker="o", markersize=6, fillstyle="none", color=INK, label="envelope")
        if isinstance(law, PowerLaw):
            compute = np.geomspace(best[0][0], best[-1][0] * 3, 100)
            axes.plot(compute, [law.at(c) for c in compute], "--", color=INK, linewidth=1.2, label="law")
        axes.set(xscale="log", yscale="log", xlabel="training FLOPs", ylabel=unit)
        _label(axes.xaxis, lambda x, _: f"{x:.0e}".replace("+", ""))
        _label(axes.yaxis, lambda y, _: f"{y:.3g}")
        axes.legend(loc="best", fontsize=8)

    return painted(f"{unit} against compute", paint, f"compute{salt}")


def draw_valleys(
    key: str, unit: str, points: dict[str, list[Point]], valleys: dict[str, Valley | str], salt: str
) -> Picture | None:
    """The losses over the rate, and the parabola through those of each group; None where there is none."""
    shown = {name: group for name, group in points.items() if group}
    if not shown:
        return None

    def paint(axes: Any) -> None:
        for color, (name, group) in zip(SERIES * len(shown), shown.items()):
            label = name if name and len(shown) <= NAMED else None
            axes.plot(*zip(*group), linestyle="", marker="o", markersize=4, color=color, label=label)
            valley = valleys[name]
            if isinstance(valley, Valley):
                between = np.geomspace(group[0][0], group[-1][0], 100)
                axes.plot(between, [valley.at(rate) for rate in between], color=color, linewidth=1.2)
                if valley.best is not None:
                    axes.axvline(valley.best, color=color, linestyle=":", linewidth=1)
        losses = [loss for group in shown.values() for _, loss in group]
        room = 0.1 * (max(losses) - min(losses)) or 0.01
        axes.set(xscale="log", xlabel=key, ylabel=unit, ylim=(min(losses) - room, max(losses) + room))
        rates = sorted({rate for group in shown.values() for rate, _ in group})
        _label(axes.xaxis, lambda x, _: f"{x:g}", rates if len(rates) <= MOST_TICKS else None)
        if any(shown) and len(shown) <= NAMED:
            axes.legend(loc="best", fontsize=8)

    return painted(f"{unit} over {key}", paint, f"{key}{salt}")


def _label(axis: Any, form: Any, places: list[float] | None = None) -> None:
    """Plain numbers on a logarithmic axis, where matplotlib's own are formulas; at `places`, else as its span asks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = axis.get_view_interval()
    if places:
        axis.set_major_locator(FixedLocator(places))
    elif high / low < 5:
        axis.set_major_locator(MaxNLocator(5))
    else:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 100 else (1.0,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(form))
