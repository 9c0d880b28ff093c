"""Numbers as people read them, and pictures with numbers on logarithmic axes."""

from pathlib import Path

import pytest

from nanochat_pl.core.figures import size
from nanochat_pl.core.picture import picture


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (999.6e6, "1 GB"),
        (1.313e6, "1.31 MB"),
        (-123456789, "-123 MB"),
        (1e15, "1 PB"),
    ],
)
def test_sizes(num_bytes: float, words: str) -> None:
    assert size(num_bytes) == words


def test_powers_of_ten_are_drawn_as_such(tmp_path: Path) -> None:
    with picture(tmp_path / "a.png", 3, 2) as axes:
        axes.loglog([1, 1000], [1, 1e9])
        axes.figure.canvas.draw()
        labels = [label for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels()]
        written = [label for label in labels if "$" in label.get_text()]
        assert written and all(label.get_parse_math() for label in written)
