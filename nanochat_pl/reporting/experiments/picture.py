"""A picture of several experiments: their training loss and what they are validated by."""

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from nanochat_pl.core.picture import NO_MATH, picture
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.reporting.experiments.comparing import METRIC_OF
from nanochat_pl.reporting.experiments.experiment import Experiment
from nanochat_pl.reporting.pictures import thinned

MOST = 10
"""Experiments that can be told apart."""
SMOOTH_OVER = 50
"""A line of the training loss has so many points that are means of neighbours."""
ACROSS = 165
"""Characters of the legend that the picture is wide."""


def draw_experiments(experiments: Sequence[Experiment], root: Path, out: Path, is_log: bool) -> list[str]:
    """Draw training loss and validation over the steps into a PNG; the last validation stands in the legend.

    Args:
        is_log: both axes are logarithmic.

    Returns:
        The names of those that have something to draw; nothing is written where there are none.

    Raises:
        MachineError: it cannot be written.
    """
    curves = {one.name: RunFolder(root / one.name).read_metrics() for one in experiments}
    from matplotlib import rc_context

    curves = {name: metrics for name, metrics in curves.items() if metrics.get("train/loss")}
    if not curves:
        return []
    validated = {one.name: METRIC_OF[one.stage].replace("val_", "val/") for one in experiments}
    longest = max(len(name) for name in curves) + len("  (1.0000)")
    columns = max(1, min(3, ACROSS // (longest + 8)))
    with rc_context(NO_MATH), picture(out, 11, 4.4 + 0.2 * -(-len(curves) // columns), columns=2) as (left, right):
        for number, (name, metrics) in enumerate(curves.items()):
            style: dict[str, Any] = {"color": f"C{number}", "linestyle": ("-", "--")[number % 2]}  # some lie on others
            losses, held_out = metrics["train/loss"], metrics.get(validated[name], [])
            if len(losses) > 2 * SMOOTH_OVER:
                left.plot(*zip(*thinned(losses)), color=f"C{number}", linewidth=0.6, alpha=0.3)
            last = f"  ({held_out[-1][1]:.4g})" if held_out else ""
            left.plot(*zip(*_smooth(losses, is_log)), linewidth=1.6, label=f"{name}{last}", **style)
            if held_out:
                right.plot(*zip(*held_out), marker="o", markersize=3, linewidth=1.4, **style)
        _label(left, "training loss, nats per token", is_log)
        _label(right, " and ".join(sorted({validated[name] for name in curves})), is_log)
        left.figure.legend(loc="outside lower center", ncols=columns, fontsize=8)
    return list(curves)


def _label(axes: Any, title: str, is_log: bool) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    axes.set(xlabel="optimizer step", title=title)
    if is_log:
        axes.set(xscale="log", yscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(7))  # losses seldom span a power of ten
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _smooth(points: list[tuple[int, float]], is_log: bool) -> list[tuple[float, float]]:
    """Means of neighbours, as many on each stretch of the axis."""
    if is_log:
        groups = [list(group) for _, group in groupby(points, lambda point: int(8 * math.log2(max(1, point[0]))))]
    else:
        width = max(1, len(points) // SMOOTH_OVER)
        groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
