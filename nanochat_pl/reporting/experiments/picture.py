"""A picture of several experiments: their training loss and what they are validated by."""

from collections.abc import Sequence
from pathlib import Path

from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.reporting.experiments.comparing import METRIC_OF
from nanochat_pl.reporting.experiments.experiment import Experiment
from nanochat_pl.reporting.pictures import thinned

MOST = 10
"""Experiments that can be told apart."""
SMOOTH_OVER = 50
"""A line of the training loss has so many points that are means of neighbours."""


def draw_experiments(experiments: Sequence[Experiment], root: Path, out: Path, is_log: bool) -> list[str]:
    """Draw training loss and validation over the steps into a PNG.

    Args:
        root: of the runs.
        is_log: both axes are logarithmic.

    Returns:
        The names of those that have something to draw; nothing is written where there are none.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    curves = {one.name: RunFolder(root / one.name).read_metrics() for one in experiments}
    curves = {name: metrics for name, metrics in curves.items() if metrics.get("train/loss")}
    if not curves:
        return []
    with rc_context({"text.parse_math": False}):  # a name with two dollars is no formula
        figure = Figure(figsize=(11, 4.6), dpi=120, layout="constrained")
        left, right = figure.subplots(1, 2)
        validated = {one.name: METRIC_OF[one.stage].replace("val_", "val/") for one in experiments}
        for number, (name, metrics) in enumerate(curves.items()):
            color = f"C{number}"
            points = metrics["train/loss"]
            if len(points) > 2 * SMOOTH_OVER:
                left.plot(*zip(*thinned(points)), color=color, linewidth=0.6, alpha=0.3)
            left.plot(*zip(*_smooth(points)), color=color, linewidth=1.6, label=name)
            if held_out := metrics.get(validated[name]):
                right.plot(*zip(*held_out), color=color, marker="o", markersize=3, linewidth=1.4)
                value = f"{held_out[-1][1]:.4g}"
                right.annotate(value, held_out[-1], xytext=(5, 0), textcoords="offset points", color=color, va="center")
        units = sorted({validated[name] for name in curves})
        for axes, title in ((left, "training loss, nats per token"), (right, " and ".join(units))):
            axes.set(xlabel="optimizer step", title=title)
            axes.grid(alpha=0.25, which="both" if is_log else "major")
            axes.spines[["top", "right"]].set_visible(False)
            axes.margins(x=0.08)
            if is_log:
                axes.set(xscale="log", yscale="log")
        figure.legend(loc="outside lower center", ncols=min(3, len(curves)), frameon=False)
        figure.savefig(out, format="png")
    return list(curves)


def _smooth(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    width = max(1, len(points) // SMOOTH_OVER)
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
