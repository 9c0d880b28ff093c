"""What the loss of each step shows: a spike, no number, a steady rise, no fall."""

import itertools
import math
import statistics

from nanochat_pl.callbacks.detectors.detector import DEVIATIONS, Detector, Outliers, deviation, noise
from nanochat_pl.core.findings import Finding


class NotFinite(Detector):
    """A number that is NaN or infinite.

    Args:
        after: readings in a row; the gradients' scale in float16 is found by single ones that are too large.
    """

    def __init__(self, name: str, after: int = 1):
        super().__init__()
        self.name, self.after = name, after

    def see(self, step: int, value: float) -> Finding | None:
        if not self.begins(not math.isfinite(value), step, self.after):
            return None
        advice = (
            "Begin anew with a lower horizon.lr_scale or optim.grad_clip=1.0; a checkpoint of before helps where one "
            "batch was at fault."
        )
        evidence = {"metric": self.name, "value": str(value)}
        return Finding("not_finite", step, f"{self.name} is {value}.", advice, severity="error", evidence=evidence)


class LossSpike(Outliers):
    """A loss far above the median of the last steps."""

    WINDOW, ENOUGH = 50, 20

    def see(self, step: int, loss: float) -> Finding | None:
        seen = self.above(loss, 0.0, share=0.05)
        if seen is None or not self.begins(seen[1], step):
            return None
        advice = (
            "One that falls back within some steps needs nothing; if more follow, lower horizon.lr_scale or set "
            "optim.grad_clip=1.0, and look at the data of this step."
        )
        message = f"The loss jumped to {loss:.4g}, from {seen[0]:.4g}."
        evidence = {"loss": loss, "usual": seen[0], "spread": noise(self.values)}
        return Finding("loss_spike", step, message, advice, evidence=evidence)


class Divergence(Detector):
    """A loss that rises from each few steps to the next ones, by more than its noise explains."""

    BLOCK_STEPS, RISES, BLOCKS, ENOUGH = 4, 3, 40, 12

    def __init__(self) -> None:
        super().__init__()
        self.block: list[float] = []
        self.medians: list[float] = []

    def see(self, step: int, loss: float) -> Finding | None:
        self.block.append(loss)
        if len(self.block) < self.BLOCK_STEPS:
            return None
        self.medians = [*self.medians, statistics.median(self.block)][-self.BLOCKS :]
        self.block.clear()
        if len(self.medians) < self.ENOUGH:
            return None
        last, spread = self.medians[-self.RISES - 1 :], noise(self.medians[: -self.RISES])
        rise = last[-1] - last[0]
        rises = all(b > a for a, b in itertools.pairwise(last)) and rise > max(DEVIATIONS * spread, 0.02 * abs(last[0]))
        since = step - self.BLOCK_STEPS * (self.RISES + 1) + 1
        if not self.begins(rises, since):
            return None
        advice = (
            "If it goes on, stop and begin anew with a lower horizon.lr_scale, a longer schedule.warmup_steps or "
            "optim.grad_clip=1.0."
        )
        message = f"The loss has risen steadily from {last[0]:.4g} to {last[-1]:.4g}."
        evidence = {"rise": rise, "spread": spread}
        return Finding("divergence", step, message, advice, since_step=since, evidence=evidence)


class Plateau(Detector):
    """A loss that has not fallen over the last half of all steps so far: a falling one falls in each doubling."""

    ENOUGH_STEPS, BLOCKS = 300, 120

    def __init__(self) -> None:
        super().__init__()
        self.block: list[float] = []
        self.block_steps = 5
        self.means: list[float] = []

    def see(self, step: int, loss: float) -> Finding | None:
        self.block.append(loss)
        if len(self.block) < self.block_steps:
            return None
        self.means.append(statistics.fmean(self.block))
        self.block.clear()
        if len(self.means) == self.BLOCKS:
            pairs = zip(self.means[::2], self.means[1::2])
            self.means, self.block_steps = [(a + b) / 2 for a, b in pairs], 2 * self.block_steps
        if len(self.means) * self.block_steps < self.ENOUGH_STEPS:
            return None
        half = self.means[len(self.means) // 2 :]
        third = len(half) // 3
        before, now = statistics.fmean(half[:third]), statistics.fmean(half[-third:])
        spread = max(noise(half), deviation(half) / 2) * math.sqrt(2 / third)
        if not self.begins(before - now < min(3 * spread, 0.002 * abs(before)), step):
            return None
        since = step - len(half) * self.block_steps
        advice = (
            "If it should be lower, try another horizon.lr_scale or see whether the data repeat; else the rest of the "
            "run may be saved."
        )
        message = f"The loss has not fallen since step {since}: it was {before:.4g} and is {now:.4g}."
        evidence = {"before": before, "now": now}
        return Finding("plateau", step, message, advice, severity="info", since_step=since, evidence=evidence)
