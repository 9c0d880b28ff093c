"""Curves through the results of a sweep: the power law of loss against compute, and the bottom of a rate's valley."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Point = tuple[float, float]

FEWEST_POINTS = 5
"""On the envelope, for a law of three parameters."""
LEAST_SPAN = 4.0
"""Times that the greatest compute is the least; over less, any curve fits."""
EXPONENTS = np.geomspace(0.01, 2.0, 1000)
RATES_OF_VALLEY = 5
"""Nearest the best rate: further out, a valley is no parabola."""


@dataclass(frozen=True)
class PowerLaw:
    """loss = floor + scale x (compute / unit)^-exponent (Kaplan et al., arXiv:2001.08361; Hoffmann et al., 2203.15556).

    Attributes:
        exponent_range, floor_range: with which the squared error is within one standard error of the least.
        is_determined: whether the range ends before the exponents that were tried do.
    """

    floor: float
    scale: float
    unit: float
    exponent: float
    exponent_range: tuple[float, float]
    floor_range: tuple[float, float]

    @property
    def is_determined(self) -> bool:
        return bool(EXPONENTS[0] < self.exponent_range[0] and self.exponent_range[1] < EXPONENTS[-1])

    def at(self, compute: float) -> float:
        """The loss at so many FLOPs."""
        return self.floor + self.scale * (compute / self.unit) ** -self.exponent


@dataclass(frozen=True)
class Valley:
    """A parabola of the loss over the logarithm of the rate.

    Attributes:
        best: the rate at its bottom; None where the bottom is not within what was tried.
        factor: the standard error of `best`, as a factor above 1; None where the points are too few to tell.
        loss: at the bottom.
        coefficients: of log(rate)^2, log(rate) and 1.
        lowest_tried: the rate of the lowest mean loss.
        edge: "lowest" or "highest" where the loss falls until that end of the rates tried, or is least there; or "".
    """

    best: float | None
    factor: float | None
    loss: float
    coefficients: tuple[float, float, float]
    lowest_tried: float
    edge: str

    def at(self, rate: float) -> float:
        """The loss that the parabola gives."""
        return float(np.polyval(self.coefficients, math.log(rate)))


def envelope(points: Sequence[Point]) -> list[Point]:
    """The points (compute, loss) that no cheaper or equally cheap one undercuts, in order of compute."""
    lowest: list[Point] = []
    for compute, loss in sorted(points):
        if not lowest or loss < lowest[-1][1]:
            lowest.append((compute, loss))
    return lowest


def fit_power_law(points: Sequence[Point]) -> PowerLaw | str:
    """The law through these points by least squares of the relative errors, or why there is none.

    For each exponent on a fine grid floor and scale follow linearly; a floor below 0 becomes 0.
    """
    if len(points) < FEWEST_POINTS:
        return f"{len(points)} points on the envelope are too few for a law of three parameters; {FEWEST_POINTS} are."
    compute, loss = (np.array(values, dtype=float) for values in zip(*points))
    if (span := compute.max() / compute.min()) < LEAST_SPAN:
        return (
            f"The points on the envelope span only {span:.1f} times in compute; a law needs {LEAST_SPAN:g} times at "
            "least, and says little below a hundred."
        )
    unit = float(np.exp(np.log(compute).mean()))
    fits = [_linear(compute / unit, loss, exponent) for exponent in EXPONENTS]
    errors = np.array([error for *_, error in fits])
    best = int(errors.argmin())
    within = np.flatnonzero(errors <= errors[best] * (1 + 1 / (len(points) - 3)))
    floors = [fits[i][0] for i in within]
    return PowerLaw(
        floor=fits[best][0],
        scale=fits[best][1],
        unit=unit,
        exponent=float(EXPONENTS[best]),
        exponent_range=(float(EXPONENTS[within[0]]), float(EXPONENTS[within[-1]])),
        floor_range=(min(floors), max(floors)),
    )


def fit_valley(points: Sequence[Point]) -> Valley | str:
    """The bottom of the losses over the rates, or why there is none.

    Args:
        points: (rate, loss), several of a rate where it was tried with several seeds.
    """
    by_rate: dict[float, list[float]] = {}
    for rate, loss in points:
        by_rate.setdefault(rate, []).append(loss)
    if len(by_rate) < 3:
        return f"{len(by_rate)} rates are too few for a valley; 3 are."
    rates = sorted(by_rate)
    lowest = min(rates, key=lambda rate: sum(by_rate[rate]) / len(by_rate[rate]))
    first = min(max(0, rates.index(lowest) - RATES_OF_VALLEY // 2), max(0, len(rates) - RATES_OF_VALLEY))
    near = rates[first : first + RATES_OF_VALLEY]
    logs, losses = (np.array(v) for v in zip(*((math.log(rate), loss) for rate in near for loss in by_rate[rate])))
    center, has_error = logs.mean(), len(losses) > 3
    fitted: Any = np.polyfit(logs - center, losses, 2, cov=has_error)  # type: ignore[call-overload]
    (a, b, c), covariance = fitted if has_error else (fitted, None)
    coefficients = (float(a), float(b - 2 * a * center), float(c - b * center + a * center**2))
    bottom = float(center - b / (2 * a)) if a > 0 else math.copysign(math.inf, -b)
    if not math.log(rates[0]) <= bottom <= math.log(rates[-1]):
        if a <= 0 and lowest not in (rates[0], rates[-1]):
            return "The losses have no valley over the rates: their differences are noise."
        return Valley(None, None, math.nan, coefficients, lowest, "lowest" if bottom < center else "highest")
    edge, factor = {rates[0]: "lowest", rates[-1]: "highest"}.get(lowest, ""), None
    if covariance is not None:
        gradient = np.array([b / (2 * a**2), -1 / (2 * a), 0.0])
        factor = float(np.exp(np.sqrt(gradient @ covariance @ gradient)))
    return Valley(math.exp(bottom), factor, float(c - b**2 / (4 * a)), coefficients, lowest, edge)


def _linear(compute: np.ndarray, loss: np.ndarray, exponent: float) -> tuple[float, float, float]:
    """Floor, scale and squared relative error of the best law with this exponent."""
    power = compute**-exponent
    weighted = np.stack([1 / loss, power / loss], axis=1)
    (floor, scale), *_ = np.linalg.lstsq(weighted, np.ones_like(loss), rcond=None)
    if floor < 0:
        floor, scale = 0.0, float((power / loss).sum() / ((power / loss) ** 2).sum())
    return float(floor), float(scale), float((((floor + scale * power) / loss - 1) ** 2).sum())
