"""What the norms of gradients and updates show, for each role of parameters."""

import math
import statistics

from nanochat_pl.callbacks.detectors.detector import Detector, keep_last, noise
from nanochat_pl.core.findings import Finding

READINGS, ENOUGH = 30, 5
FIRST_STEP = 100
"""Until then most gradients grow from nothing."""
DEVIATIONS = 8.0
FACTOR = 4.0
"""At least so many times the median."""


class Outlier(Detector):
    """A norm, or a ratio of norms, far above its median on a logarithmic scale.

    Nothing at all is no reading: where answers are rewarded alike, a step learns nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.logs: list[float] = []

    def outlier(self, step: int, value: float) -> float | None:
        """The median, where this reading is to be told."""
        if not 0 < value < math.inf:
            return None
        seen = math.log(value)
        if len(self.logs) < ENOUGH or step < FIRST_STEP:
            keep_last(self.logs, seen, READINGS)
            return None
        usual = statistics.median(self.logs)
        limit = usual + max(DEVIATIONS * noise(self.logs), math.log(FACTOR))
        begins = self.begins(seen > limit, step)
        keep_last(self.logs, min(seen, limit), READINGS)
        return math.exp(usual) if begins else None


class GradientNorm(Outlier):
    """The gradients of a role, before clipping."""

    def see(self, step: int, role: str, norm: float) -> Finding | None:
        usual = self.outlier(step, norm)
        if usual is None:
            return None
        return Finding(
            "gradient_norm",
            step,
            f"The gradients of {role} are {norm / usual:.0f} times as large as usual.",
            "One batch can do that; if it stays or the loss rises, set optim.grad_clip=1.0 or lower horizon.lr_scale.",
            evidence={"role": role, "norm": norm, "usual": usual},
        )


class UpdateRatio(Outlier):
    """A step's change of a role over its parameters, beyond what the schedule of the learning rate explains."""

    def see(self, step: int, role: str, ratio: float, lr_multiplier: float) -> Finding | None:
        if lr_multiplier <= 0:
            return None
        usual = self.outlier(step, ratio / lr_multiplier)
        if usual is None:
            return None
        return Finding(
            "update_ratio",
            step,
            f"A step changes the parameters of {role} {ratio / lr_multiplier / usual:.0f} times as much as usual.",
            f"See the rate of {role} in conf/optim, and whether a checkpoint or a callback has changed the weights.",
            evidence={"role": role, "ratio": ratio, "usual": usual * lr_multiplier},
        )
