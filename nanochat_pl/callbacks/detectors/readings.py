"""What a log interval shows: large gradients and updates, slow steps, waiting for data, memory that creeps up."""

import math

from nanochat_pl.callbacks.detectors.detector import Detector, Outliers, noise
from nanochat_pl.core.findings import Finding

FIRST_STEP = 100
"""Until then most gradients grow from nothing."""
FACTOR = 4.0
"""A norm is unusual from so many times its median on."""
MOMENT_SECONDS = 0.25
"""Shorter waits are not told: the steps of tiny models are all noise."""


class Norm(Outliers):
    """A norm, or a ratio of norms, far above its median on a logarithmic scale.

    Nothing at all is no reading: where answers are rewarded alike, a step learns nothing.
    """

    def usual(self, step: int, value: float) -> float | None:
        """The median, where this reading is to be told."""
        if not 0 < value < math.inf:
            return None
        if step < FIRST_STEP:
            self.values = [*self.values, math.log(value)][-self.WINDOW :]
            return None
        seen = self.above(math.log(value), math.log(FACTOR))
        return math.exp(seen[0]) if seen is not None and self.begins(seen[1], step) else None


class GradientNorm(Norm):
    """The gradients of a role, before clipping."""

    def see(self, step: int, role: str, norm: float) -> Finding | None:
        usual = self.usual(step, norm)
        if usual is None:
            return None
        message = f"The gradients of {role} are {norm / usual:.0f} times as large as usual."
        advice = (
            "One batch can do that; if it stays or the loss rises, set optim.grad_clip=1.0 or lower horizon.lr_scale."
        )
        evidence: dict[str, float | str] = {"role": role, "norm": norm, "usual": usual}
        return Finding("gradient_norm", step, message, advice, evidence=evidence)


class UpdateRatio(Norm):
    """A step's change of a role over its parameters, beyond what the schedule of the learning rate explains."""

    def see(self, step: int, role: str, ratio: float, lr_multiplier: float) -> Finding | None:
        usual = self.usual(step, ratio / lr_multiplier) if lr_multiplier > 0 else None
        if usual is None:
            return None
        times = ratio / lr_multiplier / usual
        message = f"A step changes the parameters of {role} {times:.0f} times as much as usual."
        advice = (
            f"See the rate of {role} in conf/optim, and whether a checkpoint or a callback has changed the weights."
        )
        evidence: dict[str, float | str] = {"role": role, "ratio": ratio, "usual": usual * lr_multiplier}
        return Finding("update_ratio", step, message, advice, evidence=evidence)


class SlowSteps(Outliers):
    """Tokens per second far below their median at two readings, and for a while: a little slower for longer than much.

    What is shorter are the pauses of a busy machine.
    """

    DEVIATIONS = 6.0
    LARGE_DROP, LARGE_SECONDS, SMALL_SECONDS = 1 / 3, 2.0, 10.0

    def __init__(self) -> None:
        super().__init__()
        self.slow = 0.0

    def see(self, step: int, tokens_per_second: float, seconds: float, mfu: float | None = None) -> Finding | None:
        """A reading of the steps since the last one, which took so many seconds."""
        seen = self.above(-tokens_per_second, 0.0, share=0.2)
        if seen is None:
            return None
        usual, is_slow = -seen[0], seen[1]
        drop = 1 - tokens_per_second / usual
        enough = self.LARGE_SECONDS if drop > self.LARGE_DROP else self.SMALL_SECONDS
        # A single pause, however long, is no slow training.
        self.slow = self.slow + min(seconds / enough, 0.5) if is_slow else 0.0
        if not self.begins(is_slow, step, after=1 if self.slow >= 1 else math.inf):
            return None
        advice = (
            "See whether something else uses the device (nvidia-smi, top), whether it is hot and throttles, and "
            "speed/loader_seconds."
        )
        message, since = f"Training is {drop:.0%} slower than before.", self.since
        evidence = {"tokens_per_second": tokens_per_second, "usual": usual} | ({} if mfu is None else {"mfu": mfu})
        return Finding("slow_steps", step, message, advice, since_step=since, evidence=evidence)


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
        advice = (
            "Raise hw.loader_threads, tokenize beforehand (python -m nanochat_pl data prepare), or see whether the "
            "disk or the network is slow."
        )
        message, since = f"{share:.0%} of the time the training waits for data.", self.since
        evidence = {"waited_seconds": waited_seconds, "seconds": seconds}
        return Finding("loader_stall", step, message, advice, since_step=since, evidence=evidence)


class MemoryCreep(Detector):
    """Memory that grows from reading to reading, beyond what it has varied by."""

    READINGS, ENOUGH = 30, 5
    GROWTH, STEP_GROWTH, DEVIATIONS = 0.1, 0.002, 6.0

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[float] = []

    def see(self, step: int, allocated_bytes: float) -> Finding | None:
        self.bytes = [*self.bytes, allocated_bytes][-self.READINGS :]
        if len(self.bytes) < self.ENOUGH:
            return None
        lowest = min(self.bytes)
        rising = all(b > a * (1 + self.STEP_GROWTH) for a, b in zip(self.bytes[-3:], self.bytes[-2:]))
        limit = lowest + max(self.GROWTH * lowest, self.DEVIATIONS * noise(self.bytes))
        if not self.begins(rising and allocated_bytes > limit, step):
            return None
        advice = (
            "Something keeps tensors from step to step, such as a callback that stores losses without .item(); switch "
            "off your own callbacks one by one."
        )
        message = f"The GPU's memory in use grows: {allocated_bytes / 2**30:.2f} GiB, from {lowest / 2**30:.2f} GiB."
        evidence = {"allocated_bytes": allocated_bytes, "lowest_bytes": lowest}
        return Finding("memory_creep", step, message, advice, evidence=evidence)
