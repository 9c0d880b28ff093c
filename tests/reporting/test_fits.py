"""Curves through points that are made from known ones."""

import math

import numpy as np
import pytest

from nanochat_pl.reporting.fits import PowerLaw, Valley, envelope, fit_power_law, fit_valley

COMPUTE = np.geomspace(1e13, 1e16, 12)
RATES = (0.1, 0.2, 0.4, 0.8, 1.6)


@pytest.mark.parametrize(("floor", "scale", "exponent"), [(0.8, 1.5, 0.3), (0.0, 2.0, 0.1), (1.2, 0.3, 0.5)])
def test_a_law_is_found_again(floor: float, scale: float, exponent: float) -> None:
    law = fit_power_law([(c, floor + scale * (c / 1e14) ** -exponent) for c in COMPUTE])
    assert isinstance(law, PowerLaw) and law.is_determined
    assert law.exponent == pytest.approx(exponent, rel=0.01) and law.floor == pytest.approx(floor, abs=0.01)
    assert law.at(1e17) == pytest.approx(floor + scale * 1e3**-exponent, rel=0.005)


def test_the_range_of_the_exponent_is_one_standard_error() -> None:
    """Over 100 draws of the noise the range holds the true value about as often as that of a normal distribution."""
    random = np.random.default_rng(0)
    within = 0
    for _ in range(100):
        noise = 1 + 0.005 * random.standard_normal(len(COMPUTE))
        law = fit_power_law(list(zip(COMPUTE, (0.8 + 1.5 * (COMPUTE / 1e14) ** -0.3) * noise)))
        assert isinstance(law, PowerLaw)
        within += law.exponent_range[0] <= 0.3 <= law.exponent_range[1]
    assert 50 <= within <= 82


def test_where_there_is_no_law_the_reason_is_told() -> None:
    assert "too few" in str(fit_power_law([(1.0, 2.0)] * 4))
    assert "span only 2.0 times" in str(fit_power_law([(1 + i / 4, 2.0 - i / 10) for i in range(5)]))
    noise = fit_power_law([(c, 2.0 + 0.1 * (-1) ** i) for i, c in enumerate(COMPUTE)])
    assert isinstance(noise, PowerLaw) and not noise.is_determined


def test_the_envelope_is_what_nothing_cheaper_undercuts() -> None:
    assert envelope([(3, 2.0), (1, 3.0), (2, 3.5), (3, 1.9), (4, 1.9), (5, 1.0)]) == [(1, 3.0), (3, 1.9), (5, 1.0)]
    assert envelope([]) == []


@pytest.mark.parametrize(("best", "edge"), [(0.15, ""), (0.5, ""), (1.2, "highest")])
def test_the_bottom_of_a_valley(best: float, edge: str) -> None:
    points = [(rate, 2 + 0.1 * math.log(rate / best) ** 2) for rate in RATES]
    valley = fit_valley(points)
    assert isinstance(valley, Valley) and valley.best == pytest.approx(best) and valley.loss == pytest.approx(2)
    assert (
        valley.edge == edge
        and valley.factor == pytest.approx(1)
        and valley.at(0.3) == pytest.approx(2 + 0.1 * math.log(0.3 / best) ** 2)
    )
    assert fit_valley(points[:3]).factor is None, "three points leave nothing to tell an error from"


def test_the_error_of_the_bottom_is_one_standard_error() -> None:
    random = np.random.default_rng(0)
    within = 0
    for _ in range(200):
        points = [(rate, 2 + 0.1 * math.log(rate / 0.5) ** 2 + 0.02 * random.standard_normal()) for rate in RATES * 3]
        valley = fit_valley(points)
        assert isinstance(valley, Valley) and valley.best and valley.factor
        within += valley.best / valley.factor <= 0.5 <= valley.best * valley.factor
    assert 0.58 <= within / 200 <= 0.78


@pytest.mark.parametrize(("best", "edge", "lowest"), [(0.01, "lowest", 0.1), (50.0, "highest", 1.6)])
def test_a_bottom_beyond_what_was_tried(best: float, edge: str, lowest: float) -> None:
    valley = fit_valley([(rate, 2 + 0.1 * math.log(rate / best) ** 2) for rate in RATES])
    assert isinstance(valley, Valley)
    assert (valley.best, valley.edge, valley.lowest_tried) == (None, edge, lowest)


def test_losses_without_a_valley() -> None:
    assert "too few" in str(fit_valley([(0.1, 1.0), (0.2, 0.9), (0.2, 0.91)]))
    hill = fit_valley([(0.1, 1.0), (0.2, 2.0), (0.4, 1.1)])
    assert isinstance(hill, Valley) and hill.edge == "lowest"
    assert "noise" in str(fit_valley([(0.1, 1.0), (0.2, 1.2), (0.4, 0.99), (0.8, 1.2), (1.6, 1.0)]))


def test_a_blow_up_far_away_does_not_move_the_bottom() -> None:
    points = [(rate, 2 + 0.1 * math.log(rate / 0.4) ** 2) for rate in (*RATES, 0.05)]
    valley = fit_valley([*points, (3.2, 9.0), (6.4, 30.0)])
    assert isinstance(valley, Valley) and valley.best == pytest.approx(0.4)
