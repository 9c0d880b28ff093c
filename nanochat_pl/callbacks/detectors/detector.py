"""What all detectors share: what is usual, when a trouble begins, when it is over, and a state in plain values."""

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any, Self

from nanochat_pl.core.findings import Finding

TO_DEVIATION = 1.4826
"""A normal distribution's standard deviation over the median distance from its median."""
CALM_READINGS = 5
"""So many readings without it, and a trouble is over."""
DEVIATIONS = 8.0
"""So far from what is usual, nothing is chance."""


def deviation(values: Sequence[float]) -> float:
    """The standard deviation, by the median distance from the median: outliers don't count."""
    middle = statistics.median(values)
    return TO_DEVIATION * statistics.median(abs(value - middle) for value in values)


def noise(values: Sequence[float]) -> float:
    """The standard deviation around a trend, whatever the trend is: by the differences of neighbours."""
    return deviation([b - a for a, b in itertools.pairwise(values)]) / math.sqrt(2)


class Detector:
    """Watches one series. Every attribute is a plain value or a list of such, and part of the state.

    Attributes:
        since: the step at which the trouble of the moment began.
    """

    def __init__(self) -> None:
        self.since: int | None = None
        self.readings = 0
        self.calm = 0
        self.told = False

    def begins(self, troubled: bool, step: int, after: float = 1) -> bool:
        """Whether a trouble is to be told: once, at its `after`-th reading in a row, until it is over."""
        if not troubled:
            self.calm += 1
            if not self.told or self.calm >= CALM_READINGS:
                self.since, self.readings, self.told = None, 0, False
            return False
        self.calm = 0
        self.readings += 1
        self.since = step if self.since is None else self.since
        is_new = not self.told and self.readings >= after
        self.told |= is_new
        return is_new

    def see(self, *reading: Any) -> Finding | None:
        """A reading, and what is to be told of it."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Plain values and lists of them."""
        return {name: list(value) if isinstance(value, list) else value for name, value in vars(self).items()}

    def load_state_dict(self, state: dict[str, Any]) -> Self:
        """Go on where the state was saved."""
        for name in vars(self).keys() & state.keys():
            setattr(self, name, list(state[name]) if isinstance(state[name], list) else state[name])
        return self


class Outliers(Detector):
    """Values far above the median of the last ones, as their own noise measures it."""

    WINDOW, ENOUGH, DEVIATIONS = 30, 5, DEVIATIONS

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def above(self, value: float, least: float, share: float = 0.0) -> tuple[float, bool] | None:
        """The median before this value, and whether this is far above it; None where too few are known.

        Args:
            least, share: at least so much above it, or such a share of it.
        """
        if len(self.values) < self.ENOUGH:
            self.values.append(value)
            return None
        usual = statistics.median(self.values)
        limit = usual + max(self.DEVIATIONS * noise(self.values), least, share * abs(usual))
        self.values.append(min(value, limit))  # a new level is learned, an outlier is not
        del self.values[: -self.WINDOW]
        return usual, value > limit
