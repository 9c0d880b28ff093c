"""Loss curves as trainings make them, healthy or with one trouble each."""

from collections.abc import Callable

import numpy as np

Metrics = dict[str, list[tuple[int, float]]]


def healthy(seed: int, points: int | None = None) -> Metrics:
    """A power law with noise, warmup and warmdown, of a random length, level, noise and log interval."""
    random = np.random.default_rng(seed)
    points = points or int(random.integers(60, 600))
    every = int(random.choice([1, 10, 50]))
    steps = every * np.arange(1, points + 1)
    share = steps / steps[-1]
    start, end, power = random.uniform(5, 11), random.uniform(1.5, 3.5), random.uniform(0.3, 0.7)
    warmup, warmdown = random.uniform(0.01, 0.05), random.uniform(0.3, 0.7)
    rate = np.minimum(1, np.minimum(share / warmup, (1 - share) / warmdown + 0.02))
    worked = np.cumsum(rate) / rate.sum()
    curve = end + (start - end) * ((worked + 0.004) / 0.004) ** -power - 0.1 * (1 - rate) * (share > warmup)
    noise = random.uniform(0.003, 0.02) * curve * random.standard_normal(points)
    held_out = slice(points // 12, None, max(1, points // 12))
    return {
        "train/loss": listed(steps, curve + noise),
        "train/lr_multiplier": listed(steps, rate),
        "val/loss": listed(steps[held_out], curve[held_out] * random.uniform(1.0, 1.03)),
    }


def listed(steps: np.ndarray, values: np.ndarray) -> list[tuple[int, float]]:
    return [(int(step), float(value)) for step, value in zip(steps, values)]


def changed(
    metrics: Metrics, change: Callable[[np.ndarray, np.ndarray], np.ndarray], name: str = "train/loss"
) -> Metrics:
    """With a series changed: `change` gets the shares of the run, from 0 to 1, and the values."""
    last = metrics["train/loss"][-1][0]
    steps, values = (np.array(column, dtype=float) for column in zip(*metrics[name]))
    return metrics | {name: listed(steps, change(steps / last, values))}


def with_spike(metrics: Metrics) -> Metrics:
    return changed(metrics, lambda share, y: y + 1.5 * np.exp(-(((share - 0.5) / 0.004) ** 2)))


def with_many_spikes(metrics: Metrics) -> Metrics:
    def change(share: np.ndarray, y: np.ndarray) -> np.ndarray:
        return y + sum(1.5 * np.exp(-(((share - at) / 0.004) ** 2)) for at in (0.12, 0.17, 0.22, 0.27))

    return changed(metrics, change)


def diverging(metrics: Metrics) -> Metrics:
    return changed(metrics, lambda share, y: y + 6 * np.maximum(0, share - 0.6))


def not_finite(metrics: Metrics) -> Metrics:
    return changed(metrics, lambda share, y: np.where(share >= 1, np.nan, y))


def overfitted(metrics: Metrics) -> Metrics:
    return changed(metrics, lambda share, y: y + 1.5 * np.maximum(0, share - 0.5), "val/loss")


def standing_still(metrics: Metrics) -> Metrics:
    """At the full rate, with nothing more to learn."""
    flat = changed(metrics, lambda share, y: np.where(share > 0.3, y[share > 0.3][0], y))
    noise = np.random.default_rng(0)
    flat = changed(flat, lambda share, y: y * (1 + 0.005 * noise.standard_normal(len(y))))
    return changed(flat, lambda share, y: np.ones_like(y), "train/lr_multiplier")


def learning_nothing(metrics: Metrics) -> Metrics:
    return changed(metrics, lambda share, y: 6 + 0.01 * (y - y.mean()))


def too_slow(metrics: Metrics) -> Metrics:
    return changed(metrics, lambda share, y: 7 - 1.2 * share + 0.02 * np.sin(1e4 * share))


def too_fast(metrics: Metrics) -> Metrics:
    """It stands still until the rate decays."""
    rate = dict(metrics["train/lr_multiplier"])
    rates = np.array([rate[step] for step, _ in metrics["train/loss"]])
    return changed(metrics, lambda share, y: 3 + 3 * np.exp(-share / 0.01) + 1.2 * rates + 0.02 * np.sin(1e4 * share))


def cut_short(metrics: Metrics) -> Metrics:
    return changed(metrics, lambda share, y: 3 + 5 * np.exp(-1.2 * share) + 0.01 * np.sin(1e4 * share))


def jittering(metrics: Metrics) -> Metrics:
    noise = np.random.default_rng(0)
    return changed(metrics, lambda share, y: y * (1 + 0.12 * noise.standard_normal(len(y))))


TROUBLES: dict[str, Callable[[Metrics], Metrics]] = {
    "spike": with_spike,
    "learning rate too high": with_many_spikes,
    "divergence": diverging,
    "not finite": not_finite,
    "overfitting": overfitted,
    "plateau": standing_still,
    "nothing learned": learning_nothing,
    "learning rate too low": too_slow,
    "too short": cut_short,
    "noisy": jittering,
}
