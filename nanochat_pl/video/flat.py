"""The same figures as a still picture by matplotlib, for pages and for machines without node."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import replacing
from nanochat_pl.video.scene import Scene

COLORS = ("#1f77b4", "#ff9f3d", "#3a9d5d", "#9467bd", "#e4577a", "#2aa7a0", "#b08f2a", "#5b6ee1")
MOST_LABELS = 24
"""Tokens that are written beside the maps; more would stand on each other."""


def draw(content: Scene, path: Path) -> None:
    """Write the picture of a scene as a PNG.

    Raises:
        UserError: there is no such picture of this kind of scene; figures are missing, or are no such figures.
    """
    if content["kind"] not in PICTURES:
        raise UserError(
            f"--flat draws {' and '.join(PICTURES)}, not {content['kind']}; `report` has curves and sweeps."
        )
    try:
        figure = PICTURES[content["kind"]](content)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"These are not the figures of `{content['kind']}`: one is missing or of another kind "
            f"({type(error).__name__}: {error}). `video {content['kind']} RUN --data-only` writes them."
        ) from error
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _attention(content: Scene) -> Any:
    """Every head of every layer: rows are tokens, columns what they look at."""
    import numpy as np
    from matplotlib.figure import Figure

    layers, tokens = content["layers"], [_visible(token) for token in content["tokens"]]
    heads, T = len(layers[0]["heads"]), len(tokens)
    figure = Figure(figsize=(2.1 + 2.0 * heads, 0.9 + 2.0 * len(layers)), layout="constrained")
    figure.suptitle(f"{content['name']}: attention weights", fontsize=12)
    all_axes = figure.subplots(len(layers), heads, squeeze=False, sharex=True, sharey=True)
    for i, layer in enumerate(layers):
        for j, rows in enumerate(layer["heads"]):
            square = np.full((T, T), np.nan)
            for t, row in enumerate(rows):
                first = max(0, t - layer["window"])
                square[t, first : t + 1] = row[first:]
            axes = all_axes[i, j]
            axes.imshow(np.sqrt(square), cmap="magma", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(f"layer {i + 1}, head {j + 1}", fontsize=8)
            axes.set_xticks([])
            axes.set_yticks(range(T) if T <= MOST_LABELS else [])
            if T <= MOST_LABELS:
                axes.set_yticklabels(tokens, fontsize=6, family="monospace", parse_math=False)
    return figure


def _pipeline(content: Scene) -> Any:
    """The rows of a batch, each of its pieces with its tokens; hatched beyond the row's end is what was cut off."""
    from matplotlib.figure import Figure

    rows, end = content["rows"], content["row_tokens"]
    figure = Figure(figsize=(9, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    pieces = 0
    for number, row in enumerate(rows):
        left = 0
        for piece in row:
            color = COLORS[pieces % len(COLORS)]
            pieces += 1
            axes.barh(number, piece["tokens"], left=left, height=0.8, color=color, edgecolor="white")
            if piece["tokens"] > end / 20:
                axes.text(
                    left + piece["tokens"] / 2,
                    number,
                    piece["tokens"],
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white",
                )
            left += piece["tokens"]
            if cut := piece["of"] - piece["tokens"]:
                axes.barh(number, cut, left=end, height=0.8, color="white", edgecolor=color, hatch="////")
    axes.axvline(end, color="black", linewidth=1.5)
    axes.invert_yaxis()
    axes.set_yticks(range(len(rows)), [f"row {i + 1}" for i in range(len(rows))], fontsize=8)
    axes.set_xlabel(f"tokens; a row has {end}, and what stands behind its end was cut off")
    axes.set_title(f"{content['name']}: the batch of step {content['step']}", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


PICTURES: dict[str, Callable[[Scene], Any]] = {"attention": _attention, "pipeline": _pipeline}


def _visible(token: str) -> str:
    return token.replace(" ", "␣").replace("\n", "↵")
