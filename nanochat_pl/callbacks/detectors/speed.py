"""What the clock and the memory show at each log interval: slow steps, waiting for data, memory that creeps up."""

import statistics

from nanochat_pl.callbacks.detectors.detector import Detector, keep_last, noise
from nanochat_pl.core.findings import Finding

READINGS, ENOUGH = 30, 5
MOMENT_SECONDS = 0.25
"""Shorter waits are not told: the steps of tiny models are all noise."""
NEVER = 1 << 30


class SlowSteps(Detector):
    """Tokens per second far below their median at two readings, and for a while: a little slower for longer than much.

    What is shorter are the pauses of a busy machine.
    """

    DEVIATIONS = 6.0
    LARGE_DROP, LARGE_SECONDS, SMALL_SECONDS = 1 / 3, 2.0, 10.0

    def __init__(self) -> None:
        super().__init__()
        self.speeds: list[float] = []
        self.slow = 0.0

    def see(self, step: int, tokens_per_second: float, seconds: float, mfu: float | None = None) -> Finding | None:
        """A reading of the steps since the last one, which took so many seconds."""
        if len(self.speeds) < ENOUGH:
            self.speeds.append(tokens_per_second)
            return None
        usual = statistics.median(self.speeds)
        limit = usual - max(self.DEVIATIONS * noise(self.speeds), 0.2 * usual)
        is_slow, drop = tokens_per_second < limit, 1 - tokens_per_second / usual
        enough = self.LARGE_SECONDS if drop > self.LARGE_DROP else self.SMALL_SECONDS
        # A single pause, however long, is no slow training.
        self.slow = self.slow + min(seconds / enough, 0.5) if is_slow else 0.0
        begins = self.begins(is_slow, step, after=1 if self.slow >= 1 else NEVER)
        keep_last(self.speeds, max(tokens_per_second, limit), READINGS)
        if not begins:
            return None
        evidence = {"tokens_per_second": tokens_per_second, "usual": usual}
        return Finding(
            "slow_steps",
            step,
            f"Training is {drop:.0%} slower than before.",
            "See whether something else uses the device (nvidia-smi, top), whether it is hot and throttles, and "
            "speed/loader_seconds.",
            since_step=self.since,
            evidence=evidence if mfu is None else evidence | {"mfu": mfu},
        )


class LoaderStall(Detector):
    """A large share of the time goes by waiting for data: more than half at once, more than a fifth at the second
    reading.
    """

    SHARE, LARGE_SHARE = 0.2, 0.5

    def see(self, step: int, waited_seconds: float, seconds: float) -> Finding | None:
        """A reading of the steps since the last one, in seconds: how long they waited, and took."""
        share = waited_seconds / seconds if seconds > 0 else 0.0
        troubled = share > self.SHARE and waited_seconds > MOMENT_SECONDS
        if not self.begins(troubled, step, after=1 if share > self.LARGE_SHARE else 2):
            return None
        return Finding(
            "loader_stall",
            step,
            f"{share:.0%} of the time the training waits for data.",
            "Raise hw.loader_threads, tokenize beforehand (python -m nanochat_pl data prepare), or see whether "
            "the disk or the network is slow.",
            since_step=self.since,
            evidence={"waited_seconds": waited_seconds, "seconds": seconds},
        )


class MemoryCreep(Detector):
    """Memory that grows from reading to reading, beyond what it has varied by."""

    GROWTH, STEP_GROWTH, DEVIATIONS = 0.1, 0.002, 6.0

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[float] = []

    def see(self, step: int, allocated_bytes: float) -> Finding | None:
        keep_last(self.bytes, allocated_bytes, READINGS)
        if len(self.bytes) < ENOUGH:
            return None
        lowest = min(self.bytes)
        rising = all(b > a * (1 + self.STEP_GROWTH) for a, b in zip(self.bytes[-3:], self.bytes[-2:]))
        limit = lowest + max(self.GROWTH * lowest, self.DEVIATIONS * noise(self.bytes))
        if not self.begins(rising and allocated_bytes > limit, step):
            return None
        return Finding(
            "memory_creep",
            step,
            f"The GPU's memory in use grows: {allocated_bytes / 2**30:.2f} GiB, from {lowest / 2**30:.2f} GiB.",
            "Something keeps tensors from step to step, such as a callback that stores losses without .item(); switch "
            "off your own callbacks one by one.",
            evidence={"allocated_bytes": allocated_bytes, "lowest_bytes": lowest},
        )
