"""What the log of a training would show, made without one: healthy, or with one trouble planted in it."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from nanochat_pl.callbacks.detectors.panel import Reading

EVERY = 10
ROLES = {"matrix": 0.4, "embedding": 0.08, "value_embedding": 0.05, "unembedding": 0.3, "gate": 0.01}


def healthy(seed: int, steps: int = 1500) -> list[Reading]:
    """Readings of a run: warmup, a fall like a power of the steps, warmdown; noise that hangs together a little and has
    heavy tails; validations, after which a step is slower; a first interval that compiles.
    """
    rng = np.random.default_rng(seed)
    level, height, power = rng.uniform(0.8, 3.0), rng.uniform(4, 9), rng.uniform(0.3, 0.6)
    spread, warmup, seconds = rng.uniform(0.01, 0.06), rng.integers(1, 60), 10 ** rng.uniform(-1, 0.5)
    n = np.arange(1, steps + 1)
    multiplier = np.minimum(1, n / warmup) * np.minimum(1, 0.05 + 0.95 * (steps - n) / (0.65 * steps))
    loss = level + height * (1 + n / 20) ** -power - 0.15 * np.maximum(0, n / steps - 0.35)
    loss += spread * (0.8 * rng.standard_normal(steps) + 0.3 * rng.standard_t(5, steps))
    loss += 0.3 * spread * np.convolve(rng.standard_normal(steps + 20), np.ones(20) / 20**0.5, "valid")[:steps]
    step_seconds = seconds * rng.lognormal(0, rng.uniform(0.005, 0.05), steps)
    step_seconds[0] += 30 * seconds
    step_seconds[249::250] *= 1.3
    readings = []
    for last in range(EVERY, steps + 1, EVERY):
        mean_seconds = step_seconds[last - EVERY : last].mean()
        metrics = {
            "train/lr_multiplier": float(multiplier[last - 1]),
            "speed/tokens_per_second": 2**16 / mean_seconds,
            "speed/loader_seconds": 0.02 * mean_seconds * rng.exponential(),
            "memory/gpu_bytes": 8e9 * (1 + 0.005 * rng.standard_normal()),
        }
        for role, size in ROLES.items():
            early = 1 + 4 * np.exp(-last / 50)
            metrics[f"grad_norm/{role}"] = size * early * rng.lognormal(0, 0.2)
            metrics[f"update_ratio/{role}"] = 0.02 * size * early * multiplier[last - 1] * rng.lognormal(0, 0.1)
        seconds = None if last == EVERY else EVERY * mean_seconds
        readings.append(Reading(last, [float(x) for x in loss[last - EVERY : last]], metrics, seconds))
    return readings


def _of_steps(change: Callable[[float, int], float]) -> Callable[[Reading, int], Reading]:
    """A trouble that changes the loss: from (loss, steps since it began)."""

    def changed(reading: Reading, since: int) -> Reading:
        first = reading.step - len(reading.losses) + 1
        losses = [
            change(loss, step - since) if step >= since else loss for step, loss in enumerate(reading.losses, first)
        ]
        return replace(reading, losses=losses)

    return changed


def _of_metric(name: str, change: Callable[[float, int], float]) -> Callable[[Reading, int], Reading]:
    """A trouble that changes a metric: from (value, steps since it began)."""

    def changed(reading: Reading, since: int) -> Reading:
        if reading.step < since:
            return reading
        value = change(reading.metrics[name], reading.step - since)
        return replace(reading, metrics={**reading.metrics, name: value})

    return changed


def _slower(reading: Reading, since: int, factor: float) -> Reading:
    if reading.step < since or reading.seconds is None:
        return reading
    speed = reading.metrics["speed/tokens_per_second"] / factor
    return replace(
        reading, metrics={**reading.metrics, "speed/tokens_per_second": speed}, seconds=reading.seconds * factor
    )


def _waiting(reading: Reading, since: int) -> Reading:
    """Each step waits as long as it takes else."""
    if reading.step < since or reading.seconds is None:
        return reading
    waited = {"speed/loader_seconds": reading.seconds / EVERY}
    return replace(_slower(reading, since, 2.0), metrics=reading.metrics | waited)


TROUBLES = {
    "loss_spike": _of_steps(lambda loss, n: loss + 1.5 * 0.8**n),
    "not_finite": _of_steps(lambda loss, n: float("nan")),
    "not_finite gradient": _of_metric("grad_norm/matrix", lambda norm, n: float("inf")),
    "divergence": _of_steps(lambda loss, n: loss + 0.05 * n),
    "slow_steps": lambda reading, since: _slower(reading, since, 1.6),
    "loader_stall": _waiting,
    "memory_creep": _of_metric("memory/gpu_bytes", lambda size, n: size * (1.1 + 0.015 * n)),
    "gradient_norm": _of_metric("grad_norm/embedding", lambda norm, n: 20 * norm),
    "update_ratio": _of_metric("update_ratio/matrix", lambda ratio, n: 10 * ratio),
}
"""kind (and which) -> what it does to the readings from a step on."""


def with_trouble(readings: list[Reading], trouble: str, since: int) -> Iterator[Reading]:
    """The readings with one of TROUBLES from step `since` on."""
    return (TROUBLES[trouble](reading, since) for reading in readings)
