"""The pattern of a loss: healthy curves show none, each trouble its own."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from nanochat_pl.diagnosis.curve import Curve
from nanochat_pl.diagnosis.patterns import Seen, find_patterns
from tests.diagnosis.curves import TROUBLES, Metrics, changed, healthy, too_fast


def seen(metrics: Metrics) -> Seen:
    return Seen(Curve.of(metrics["train/loss"]), metrics["val/loss"], metrics["train/lr_multiplier"], True, 0.5)


def test_healthy_curves_are_healthy() -> None:
    found = {seed: [pattern.name for pattern in find_patterns(seen(healthy(seed)))] for seed in range(50)}
    assert not any(found.values()), {seed: names for seed, names in found.items() if names}


@pytest.mark.parametrize("name", TROUBLES)
def test_each_trouble_is_named(name: str) -> None:
    for seed in range(5):
        first, *_ = find_patterns(seen(TROUBLES[name](healthy(seed, points=300)))) or [None]
        assert first is not None and first.name == name, (seed, first)
        assert first.advice and first.what


def test_what_falls_only_as_the_rate_decays_had_too_high_a_rate() -> None:
    (pattern, *_) = find_patterns(seen(too_fast(healthy(1, points=300))))
    assert pattern.name == "learning rate too high" and "only as that decays" in pattern.what
    assert "horizon.lr_scale=0.25" in pattern.advice


def test_a_loss_above_that_of_guessing_is_not_healthy_however_it_falls() -> None:
    for seed in range(5):
        watched = seen(healthy(seed, points=300))
        assert not find_patterns(replace(watched, guessing=1.01 * watched.train.end))
        [pattern] = find_patterns(replace(watched, guessing=0.9 * watched.train.end))
        assert pattern.name == "worse than guessing" and "horizon.lr_scale=0.05" in pattern.advice


def test_a_spike_is_not_told_from_the_noise_of_a_few_points() -> None:
    few = [5.58, 5.57, 5.55, 5.5, 5.4, 5.3, 5.1, 4.8, 4.5, 4.3, 4.0, 3.8, 3.6, 3.4, 3.4, 3.4, 3.35, 3.8, 3.9, 3.15, 3.7,
           3.5, 3.3, 3.35]  # fmt: skip
    curve = Curve.of(list(enumerate(few, 1)))
    assert curve.spikes() and not any(pattern.name == "spike" for pattern in find_patterns(Seen(curve)))


def test_where_a_trouble_is() -> None:
    metrics = healthy(3, points=300)
    last = metrics["train/loss"][-1][0]
    spike, divergence, overfitting = (
        find_patterns(seen(TROUBLES[name](metrics)))[0] for name in ("spike", "divergence", "overfitting")
    )
    assert spike.steps[0] == pytest.approx(0.5 * last, abs=0.01 * last)
    assert divergence.steps[0] == pytest.approx(0.6 * last, abs=0.05 * last)
    assert overfitting.steps[0] == pytest.approx(0.5 * last, abs=0.1 * last)


@pytest.mark.parametrize(
    "change",
    [
        lambda share, y: np.full_like(y, np.nan),
        lambda share, y: np.full_like(y, 3.0),
        lambda share, y: np.zeros_like(y),
        lambda share, y: -y,
        lambda share, y: np.where(share > 0.5, np.inf, 1e300 * y),
    ],
    ids=["nan", "constant", "zero", "negative", "huge"],
)
def test_odd_series_are_survived(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    for points in (1, 2, 11, 12, 13, 100):
        metrics = changed(healthy(0, points=max(13, points)), change)
        find_patterns(seen(metrics | {"train/loss": metrics["train/loss"][:points]}))


def test_a_jump_at_the_very_end_is_no_spike_yet() -> None:
    metrics = changed(healthy(4, points=300), lambda share, y: y + np.where(share >= 1, 2.0, 0.0))
    assert not find_patterns(seen(metrics))
