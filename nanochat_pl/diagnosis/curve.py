"""The shape of a loss curve in figures: level, noise, spikes, how it falls."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOW_SHARE, WIDEST = 0.06, 101
"""The running median covers such a share of the points, and at most so many."""
NORMAL = 1.4826
"""Median absolute deviation -> standard deviation of a normal."""
SPIKE_SPREADS, SPIKE_SHARE = 8.0, 0.1
"""A spike stands so many spreads, and such a share of the level, above what was before it and what is around it."""

STILL_OUT = 2
"""Of the last values it is not known yet whether they come back."""

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Curve:
    """A series with its running median.

    Attributes:
        steps, values: (N,), the finite ones.
        level: (N,) the median of the values around each.
        before: (N,) the median of the values before each; of the first, itself.
        spread: (N,) of the values about the level, as a standard deviation.
        width: of the median's window, in points.
        not_finite: steps whose value is NaN or infinite.
    """

    steps: np.ndarray
    values: np.ndarray
    level: np.ndarray
    before: np.ndarray
    spread: np.ndarray
    width: int
    not_finite: tuple[int, ...]

    @classmethod
    def of(cls, points: Points) -> "Curve":
        steps, all_values = (np.array(column, dtype=float) for column in zip(*points)) if points else (np.zeros(0),) * 2
        finite = np.isfinite(all_values)
        values = all_values[finite]
        half = min(WIDEST, max(7, int(WINDOW_SHARE * len(values)))) // 2
        level = _medians(values, half, half)
        deviations = np.abs(values - level)
        nearby = NORMAL * _medians(deviations, 8 * half, 8 * half)
        # Few values may be near each other by chance: never much less than the whole curve's.
        everywhere = NORMAL * float(np.median(deviations / np.maximum(np.abs(level), 1e-12))) if len(values) else 0.0
        spread = np.maximum(nearby, everywhere * np.abs(level))
        before = np.concatenate([values[:1], _medians(values, 2 * half, -1)[1:]])
        missing = tuple(int(step) for step in steps[~finite])
        return cls(steps[finite], values, level, before, spread, 2 * half + 1, missing)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def start(self) -> float:
        return float(self.values[:3].max())

    @property
    def end(self) -> float:
        return float(self.level[-1])

    @property
    def drop(self) -> float:
        """From the beginning to the end."""
        return self.start - self.end

    @property
    def noise(self) -> float:
        """The spread in the second half, as a share of the level."""
        half = len(self) // 2
        return float(np.median(self.spread[half:]) / max(1e-12, abs(np.median(self.level[half:]))))

    def at_step(self, step: float) -> float:
        """The level there."""
        return float(np.interp(step, self.steps, self.level))

    def at(self, share: float) -> float:
        """The level after such a share of the steps."""
        return self.at_step(self.steps[0] + share * (self.steps[-1] - self.steps[0]))

    def spikes(self) -> list[int]:
        """Indices of the highest point of each spike: far above what was before it, and it comes back."""
        margin = np.maximum(SPIKE_SPREADS * self.spread, SPIKE_SHARE * np.abs(self.level))
        high = np.flatnonzero((self.values > self.level + margin) & (self.values > self.before + margin))
        high = high[high < len(self) - STILL_OUT]
        if not len(high):
            return []
        gap = max(2, int(WINDOW_SHARE * len(self) / 2))
        groups = np.split(high, np.flatnonzero(np.diff(high) > gap) + 1)
        return [int(group[self.values[group].argmax()]) for group in groups]


def _medians(values: np.ndarray, back: int, ahead: int) -> np.ndarray:
    """Of the values from `back` before each to `ahead` behind it (-1: without itself), as far as there are: (N,)."""
    if not len(values):
        return values
    padded = np.concatenate([np.full(back, np.nan), values, np.full(max(0, ahead), np.nan)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, back + ahead + 1)[: len(values)]
    medians = np.empty(len(values))
    for i in range(0, len(values), 4096):  # a window's copy each
        some = windows[i : i + 4096]
        known = ~np.isnan(some).all(axis=1)
        medians[i : i + 4096] = values[i : i + 4096]
        medians[i : i + 4096][known] = np.nanmedian(some[known], axis=1)
    return medians
