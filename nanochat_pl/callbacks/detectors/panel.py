"""All detectors together: from what is read at a log interval to what is found out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from nanochat_pl.callbacks.detectors.detector import Detector
from nanochat_pl.callbacks.detectors.losses import Divergence, LossSpike, NotFinite, Plateau
from nanochat_pl.callbacks.detectors.readings import GradientNorm, LoaderStall, MemoryCreep, SlowSteps, UpdateRatio
from nanochat_pl.core.findings import Finding

D = TypeVar("D", bound=Detector)

OF_THE_LOSS: tuple[type[LossSpike | Divergence | Plateau], ...] = (LossSpike, Divergence, Plateau)


@dataclass(frozen=True)
class Reading:
    """What one log interval has shown.

    Attributes:
        step: the last one of the interval.
        losses: of each of its steps, in order.
        metrics: name -> value, as they are logged.
        seconds: that its steps took; None: it is the first one, in which all is compiled and fetched, or not known.
    """

    step: int
    losses: Sequence[float]
    metrics: Mapping[str, float]
    seconds: float | None = None


class Panel:
    """The detectors of a training.

    Args:
        judges_loss: whether the loss says how well the model does; that of reinforcement learning does not.
    """

    def __init__(self, judges_loss: bool = True):
        self._judges_loss = judges_loss
        self._detectors: dict[str, Detector] = {}
        self._saved: dict[str, dict[str, Any]] = {}

    def see(self, reading: Reading) -> list[Finding]:
        """What is new in this reading."""
        found = [*self._of_losses(reading), *self._of_norms(reading), *self._of_speed(reading)]
        return [finding for finding in found if finding is not None]

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Plain containers."""
        return self._saved | {name: detector.state_dict() for name, detector in self._detectors.items()}

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        """Go on where the state was saved."""
        self._saved, self._detectors = dict(state), {}

    def _detector(self, name: str, make: Callable[[], D]) -> D:
        if name not in self._detectors:
            self._detectors[name] = make().load_state_dict(self._saved.get(name, {}))
        return self._detectors[name]  # type: ignore[return-value]

    def _of_losses(self, reading: Reading) -> Iterator[Finding | None]:
        first = reading.step - len(reading.losses) + 1
        not_finite = self._detector("not_finite", partial(NotFinite, "train/loss"))
        for step, loss in enumerate(reading.losses, first):
            finding = not_finite.see(step, loss)
            yield finding
            if self._judges_loss and not_finite.since is None:
                for kind in OF_THE_LOSS:
                    yield self._detector(kind.__name__, kind).see(step, loss)

    def _of_norms(self, reading: Reading) -> Iterator[Finding | None]:
        step, multiplier = reading.step, reading.metrics.get("train/lr_multiplier", 1.0)
        gradients: list[Finding | None] = []
        updates: list[Finding | None] = []
        for name, value in reading.metrics.items():
            group, _, role = name.partition("/")
            if group == "grad_norm":
                yield self._detector(f"not_finite/{name}", partial(NotFinite, name, after=2)).see(step, value)
                gradients.append(self._detector(name, GradientNorm).see(step, role, value))
            elif group == "update_ratio":
                updates.append(self._detector(name, UpdateRatio).see(step, role, value, multiplier))
        yield _as_one(gradients)
        yield _as_one(updates)

    def _of_speed(self, reading: Reading) -> Iterator[Finding | None]:
        step, metrics, seconds = reading.step, reading.metrics, reading.seconds
        speed, waited = metrics.get("speed/tokens_per_second"), metrics.get("speed/loader_seconds")
        if seconds is not None and speed is not None:
            yield self._detector("slow_steps", SlowSteps).see(step, speed, seconds, metrics.get("speed/mfu"))
        if seconds is not None and waited is not None:
            yield self._detector("loader_stall", LoaderStall).see(step, waited * len(reading.losses), seconds)
        if (allocated := metrics.get("memory/gpu_bytes")) is not None:
            yield self._detector("memory_creep", MemoryCreep).see(step, allocated)


def _as_one(findings: list[Finding | None]) -> Finding | None:
    """What several roles show at once is one trouble: that of the first, with the names of the others."""
    found = [finding for finding in findings if finding is not None]
    if len(found) < 2:
        return found[0] if found else None
    others = ", ".join(str(finding.evidence["role"]) for finding in found[1:])
    return replace(found[0], evidence={**found[0].evidence, "also": others})
