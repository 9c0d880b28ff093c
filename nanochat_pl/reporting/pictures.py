"""Curves as SVG that takes its colours from the page, so that light and dark are the page's own choice."""

import base64
import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_pl.core.picture import NO_MATH, STYLE

Series = dict[str, list[tuple[int, float]]]

INK, LINES = "#010101", "#020202"
SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305", "#030306")
_VARIABLES = {INK: "var(--quiet)", LINES: "var(--line)"} | {code: f"var(--c{i})" for i, code in enumerate(SERIES, 1)}
"""Colours that matplotlib draws with -> the page's variables that they become."""

MOST_POINTS = 400
"""Of one line; of a longer one, neighbours are averaged."""


@dataclass(frozen=True)
class Picture:
    """A drawing with what it shows in words."""

    title: str
    svg: str


@dataclass(frozen=True)
class FilePicture:
    """A picture in a run's folder that `video --flat` has drawn there.

    Attributes:
        data: the file in base64.
    """

    title: str
    file: str
    data: str


FLAT = {"attention.png": "Attention, head by head", "pipeline.png": "How a batch was packed"}


def flat_pictures(run_folder: Path) -> list[FilePicture]:
    """Those that are there."""
    return [
        FilePicture(title, file, base64.b64encode((run_folder / file).read_bytes()).decode())
        for file, title in FLAT.items()
        if (run_folder / file).is_file()
    ]


@dataclass(frozen=True)
class Panel:
    """Series that share an axis: their names in metrics.csv -> in the picture."""

    title: str
    unit: str
    names: dict[str, str]


PANELS = (
    Panel("Loss", "nats per token", {"train/loss": "training", "val/loss": "validation"}),
    Panel("Bits per byte", "bits per byte", {"val/bpb": "validation"}),
    Panel(
        "Reward",
        "share",
        {"rl/reward": "training", "val/reward": "validation"} | {f"val/pass@{k}": f"pass@{k}" for k in (1, 2, 4, 8)},
    ),
    Panel("Answers", "share", {"rl/ended": "ended by themselves", "rl/equal_groups": "groups of equal reward"}),
    Panel("Length of answers", "tokens", {"rl/answer_tokens": "training"}),
    Panel("Speed", "tokens per second", {"speed/tokens_per_second": "training"}),
)


def draw_metrics(metrics: Series, stage: str) -> list[Picture]:
    """A picture of each panel in which something has changed.

    Args:
        stage: whose metrics they are; the loss of rl is weighted by advantages and has no unit.
    """
    pictures = []
    for panel in PANELS:
        series = {label: metrics[name] for name, label in panel.names.items() if name in metrics}
        if any(len(points) > 1 for points in series.values()):
            unit = "policy loss" if (stage, panel.title) == ("rl", "Loss") else panel.unit
            pictures.append(draw(panel.title, unit, series, f"{stage} {panel.title}"))
    return pictures


def draw(title: str, unit: str, series: Series, salt: str) -> Picture:
    """Lines over the steps, with gaps where a value is not finite; a short one shows its points.

    Args:
        salt: other than that of any other picture on the page.
    """
    from matplotlib.ticker import MaxNLocator

    def paint(axes: Any) -> None:
        for color, (label, points) in zip(SERIES * len(series), series.items()):
            marker = "o" if len(points) <= 20 else ""
            axes.plot(*zip(*thinned(points)), color=color, linewidth=1.6, marker=marker, markersize=3.5, label=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.set(xlabel="optimizer step", ylabel=unit)
        if len(series) > 1:
            axes.legend(loc="best")

    return painted(title, paint, salt)


def painted(title: str, paint: Callable[[Any], None], salt: str) -> Picture:
    """What `paint` draws on matplotlib's axes in the colours INK, LINES and SERIES."""
    import matplotlib
    from matplotlib.figure import Figure

    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    colours |= dict.fromkeys(("axes.edgecolor", "grid.color"), LINES)
    settings = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9, "grid.alpha": 1, "grid.linewidth": 0.6}
    with matplotlib.rc_context(STYLE | NO_MATH | settings | colours):
        figure = Figure(figsize=(5, 2.9), layout="constrained")
        axes = figure.add_subplot()
        paint(axes)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return Picture(title, _for_page(buffer.getvalue()))


def thinned(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` points: each the mean of as many neighbours."""
    width = -(-len(points) // MOST_POINTS)
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    means = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return [(x, y if math.isfinite(y) else math.nan) for x, y in means]


def _for_page(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r' id="[a-z.\d]+_\d+"', "", svg)  # they would repeat on the page; those that are referred to have no _
    return re.sub("|".join(_VARIABLES), lambda match: _VARIABLES[match[0]], svg)
