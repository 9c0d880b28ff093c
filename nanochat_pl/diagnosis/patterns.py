"""The patterns that a training's curves are told by, each from figures that healthy curves stay away from."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from nanochat_pl.diagnosis.curve import Curve, Points
from nanochat_pl.diagnosis.diagnosis import Severity

FEWEST = 12
"""Points below which a curve has no shape to speak of."""
FEWEST_FOR_SPIKES = 4 * FEWEST
"""Points below which its noise is not known well enough to tell a spike from it."""
RISE_SPREADS, RISE_SHARE = 6.0, 0.1
"""A loss that ends so many spreads, and such a share of all it had learned, above its least level diverges."""
OVERFITTING = 0.01
"""Share by which the validation loss has risen since its best."""
WORSE_THAN_GUESSING = 1.05
"""A loss above so many times that of guessing has lost what the model began with."""
LEARNED = 0.05
"""A loss that has fallen by less than this share has learned nothing to speak of."""
MANY_SPIKES = 4
NOISY = 0.06
"""Spread of the second half as a share of its level."""
STILL_FALLING = 0.1
"""Share of all that was learned which came in the last fifth."""
FLAT = 0.01
"""Share of all that was learned which came in the last two fifths."""
STRAIGHT = 0.7
"""A curve whose second half falls at least so much of the first half's is nearly a line."""


@dataclass(frozen=True)
class Seen:
    """What the patterns are told from.

    Attributes:
        validation: (step, loss) of the held-out text; in the training loss's unit.
        rate: (step, factor of the learning rates), from warmup to warmdown.
        guessing: the loss of a model that takes all tokens for equally likely, in nats; None: not known.
    """

    train: Curve
    validation: Points = ()
    rate: Points = ()
    finished: bool = False
    lr_scale: float | None = None
    guessing: float | None = None

    def rate_at(self, steps: np.ndarray) -> np.ndarray:
        """The factor at these steps; 1 where it is not known."""
        if not self.rate:
            return np.ones(len(steps))
        known, factors = zip(*self.rate)
        return np.interp(steps, known, factors)

    def other_rate(self, factor: float) -> str:
        """The option for `factor` times the learning rates."""
        return f"horizon.lr_scale={factor * self.lr_scale:.2g}" if self.lr_scale else f"{factor:g} x horizon.lr_scale"


@dataclass(frozen=True)
class Pattern:
    """A pattern that was found.

    Attributes:
        steps: that it shows at; the first is where it begins.
    """

    name: str
    severity: Severity
    what: str
    advice: str
    evidence: dict[str, float | int | str] = field(default_factory=dict)
    steps: tuple[int, ...] = ()


def not_finite(seen: Seen) -> Pattern | None:
    if not seen.train.not_finite:
        return None
    step = seen.train.not_finite[0]
    spikes = [int(seen.train.steps[i]) for i in seen.train.spikes()]
    before = f"; spikes before it, at steps {_listed(spikes)}, point to the learning rate" if spikes else ""
    return Pattern(
        "not finite", "error", f"The loss is NaN or infinite at step {step:,}{before}.",
        f"Train anew with a lower rate or clipped gradients: {seen.other_rate(0.5)} or optim.grad_clip=1.0, with "
        "run.fresh=true. In float16, bfloat16 has the wider range (hw.precision=bfloat16).",
        {"step": step}, (step,),
    )  # fmt: skip


def worse_than_guessing(seen: Seen) -> Pattern | None:
    if seen.guessing is None or seen.train.end < WORSE_THAN_GUESSING * seen.guessing:
        return None
    return Pattern(
        "worse than guessing", "error",
        f"The loss is {seen.train.end:.3f} at the end; a model that guesses among all tokens has {seen.guessing:.3f}.",
        f"Train anew with a lower rate or clipped gradients: {seen.other_rate(0.1)} or optim.grad_clip=1.0, with "
        "run.fresh=true.",
        {"now": seen.train.end, "guessing": seen.guessing},
    )  # fmt: skip


def divergence(seen: Seen) -> Pattern | None:
    curve = seen.train
    lowest = int(curve.level.argmin())
    least, spread = float(curve.level[lowest]), float(curve.spread[lowest:].min())
    bound = max(RISE_SPREADS * spread, RISE_SHARE * (curve.start - least), 0.02 * abs(least))
    behind = curve.level[lowest:]
    # It stays up: of what follows the last rise beyond the bound there are several points.
    if len(behind) < 4 or curve.end - least <= bound or (behind[-3:] - least <= bound / 2).any():
        return None
    still_low = np.flatnonzero(behind - least <= max(spread, 0.05 * (curve.end - least)))
    since = int(curve.steps[lowest + int(still_low[-1])])
    return Pattern(
        "divergence", "error",
        f"The loss rises since step {since:,}, from {least:.3f} to {curve.end:.3f}, and does not come back.",
        f"Stop it, and train anew with a lower rate: {seen.other_rate(0.5)} run.fresh=true; or optim.grad_clip=1.0.",
        {"least": least, "now": curve.end, "since_step": since}, (since,),
    )  # fmt: skip


def overfitting(seen: Seen) -> Pattern | None:
    validation = Curve.of(seen.validation)
    if len(validation) < 4:
        return None
    best = int(validation.values.argmin())
    least, last = float(validation.values[best]), float(np.median(validation.values[-2:]))
    later = len(validation) - 1 - best
    jitter = float(np.median(np.abs(np.diff(validation.values)))) if later > 3 else 0.0
    step = int(validation.steps[best])
    falls = seen.train.at_step(step) - seen.train.end
    rises = last - least
    if later < 2 or rises <= max(OVERFITTING * abs(least), 2 * jitter) or falls <= -rises / 2:
        return None
    return Pattern(
        "overfitting", "warning",
        f"The validation loss is best at step {step:,} ({least:.3f}) and rises since, to {last:.3f}, while the "
        f"training loss goes from {seen.train.at_step(step):.3f} to {seen.train.end:.3f}.",
        f"Take more data, a smaller model, or end at step {step:,} (horizon.steps={step} run.fresh=true).",
        {"best_step": step, "best": least, "last": last}, (step,),
    )  # fmt: skip


def rate_too_high(seen: Seen) -> Pattern | None:
    curve, rate = seen.train, seen.rate_at(seen.train.steps)
    spikes = [i for i in curve.spikes() if rate[i] >= 0.5 * rate.max()]
    if len(spikes) >= MANY_SPIKES:
        steps = [int(curve.steps[i]) for i in spikes]
        return Pattern(
            "learning rate too high", "warning",
            f"The loss spikes {len(spikes)} times while the learning rate is high, at steps {_listed(steps)}.",
            f"Lower it: {seen.other_rate(0.5)} run.fresh=true; or optim.grad_clip=1.0.",
            {"spikes": len(spikes)}, tuple(steps),
        )  # fmt: skip
    decays = int(np.flatnonzero(rate >= 0.95 * rate.max())[-1])
    if not FEWEST <= decays < len(curve) - FEWEST:
        return None
    middle, there = curve.level[decays // 2], curve.level[decays]
    gained = there - curve.end
    if gained > LEARNED * curve.start and middle - there < 0.1 * gained:
        step = int(curve.steps[decays])
        return Pattern(
            "learning rate too high", "warning",
            f"The loss stands still at the full learning rate ({middle:.3f} to {there:.3f}) and falls only as that "
            f"decays, from step {step:,} on, to {curve.end:.3f}.",
            f"Lower it: {seen.other_rate(0.5)} run.fresh=true.",
            {"decays_from_step": step}, (step,),
        )  # fmt: skip
    return None


def spike(seen: Seen) -> Pattern | None:
    curve = seen.train
    spikes = curve.spikes()
    if not spikes or len(curve) < FEWEST_FOR_SPIKES:
        return None
    steps = [int(curve.steps[i]) for i in spikes]
    worst = max(spikes, key=lambda i: curve.values[i] - curve.level[i])
    return Pattern(
        "spike", "warning",
        f"The loss jumps to {curve.values[worst]:.3f} from {curve.before[worst]:.3f} at step "
        f"{int(curve.steps[worst]):,} and comes back" + (f"; in all at steps {_listed(steps)}." if steps[1:] else "."),
        "One that comes back does no harm. Where they grow: optim.grad_clip=1.0, or a lower learning rate "
        f"({seen.other_rate(0.7)}).",
        {"spikes": len(steps)}, tuple(steps),
    )  # fmt: skip


def rate_too_low(seen: Seen) -> Pattern | None:
    curve = seen.train
    first, second = curve.at(0.1) - curve.at(0.5), curve.at(0.5) - curve.at(0.9)
    falls = curve.drop > 4 * float(np.median(curve.spread))
    if not (falls and len(curve) >= 4 * FEWEST and second >= STRAIGHT * first > 0 and curve.end > 0.6 * curve.start):
        return None
    return Pattern(
        "learning rate too low", "warning",
        f"The loss falls slowly and nearly in a line, from {curve.start:.3f} to {curve.end:.3f}; at a good learning "
        "rate it falls steeply at first.",
        f"Raise it: {seen.other_rate(3)} run.fresh=true. If the line goes on falling, the run is only too short.",
        {"first_half": first, "second_half": second},
    )  # fmt: skip


def nothing_learned(seen: Seen) -> Pattern | None:
    curve = seen.train
    if curve.steps[-1] < 100 or curve.drop > LEARNED * abs(curve.start):
        return None
    return Pattern(
        "nothing learned", "error",
        f"The loss has hardly fallen in {curve.steps[-1]:,.0f} steps: {curve.start:.3f} to {curve.end:.3f}.",
        "Look at what it is trained on (python -m nanochat_pl data show, doctor data), then try another rate: "
        f"{seen.other_rate(3)} or {seen.other_rate(0.3)}, each with run.fresh=true.",
        {"start": curve.start, "end": curve.end},
    )  # fmt: skip


def plateau(seen: Seen) -> Pattern | None:
    curve = seen.train
    since = curve.at(0.6)
    gained, doubt = since - curve.end, 2 * float(np.median(curve.spread)) / max(1, curve.width) ** 0.5
    rate = seen.rate_at(curve.steps[curve.steps >= curve.steps[0] + 0.6 * (curve.steps[-1] - curve.steps[0])])
    if curve.steps[-1] < 100 or gained + doubt > FLAT * curve.drop or rate.mean() < 0.05:
        return None
    step = int(curve.steps[0] + 0.6 * (curve.steps[-1] - curve.steps[0]))
    return Pattern(
        "plateau", "warning",
        f"The loss stands still since about step {step:,}: {since:.3f} then, {curve.end:.3f} now.",
        "More steps of the same will not help: a deeper model (model.depth), more or other data, or let the learning "
        "rate decay earlier (schedule.warmdown_ratio).",
        {"then": since, "now": curve.end}, (step,),
    )  # fmt: skip


def too_short(seen: Seen) -> Pattern | None:
    curve = seen.train
    last = curve.at(0.8) - curve.end
    if not seen.finished or curve.drop <= 0 or last < STILL_FALLING * curve.drop:
        return None
    steps = int(curve.steps[-1])
    return Pattern(
        "too short", "info",
        f"The loss still falls at the end: {last / curve.drop:.0%} of what was learned came in the last fifth.",
        f"Train it longer: horizon.steps={2 * steps} goes on with this run.",
        {"last_fifth": last, "in_all": curve.drop},
    )  # fmt: skip


def noisy(seen: Seen) -> Pattern | None:
    if seen.train.noise < NOISY:
        return None
    return Pattern(
        "noisy", "info",
        f"The loss varies by {seen.train.noise:.0%} from step to step: the batches are small, or their texts differ.",
        "Judge by the validation loss; a larger horizon.total_batch_tokens is calmer.",
        {"spread": seen.train.noise},
    )  # fmt: skip


PATTERNS: tuple[Callable[[Seen], Pattern | None], ...] = (
    not_finite, divergence, worse_than_guessing, nothing_learned, overfitting, rate_too_high, spike, rate_too_low,
    plateau, too_short, noisy,
)  # fmt: skip
"""The worst first."""
HIDDEN_BY = {
    "spike": {"learning rate too high", "worse than guessing", "not finite"},
    "worse than guessing": {"divergence", "not finite"},
    "nothing learned": {"worse than guessing"},
    "plateau": {"nothing learned", "worse than guessing", "divergence", "not finite"},
    "learning rate too low": {"nothing learned", "worse than guessing", "divergence"},
    "learning rate too high": {"worse than guessing", "divergence", "not finite"},
    "too short": {"learning rate too low", "learning rate too high", "overfitting"},
    "noisy": {"worse than guessing", "divergence", "not finite", "nothing learned"},
}
"""A pattern that says nothing beside one of these."""


def find_patterns(seen: Seen) -> list[Pattern]:
    """Those of the curves, the worst first; none: they are healthy, or too short to tell."""
    if len(seen.train) < FEWEST:
        pattern = not_finite(seen)
        return [pattern] if pattern else []
    found = [pattern for look in PATTERNS if (pattern := look(seen))]
    names = {pattern.name for pattern in found}
    return [pattern for pattern in found if not HIDDEN_BY.get(pattern.name, set()) & names]


def _listed(steps: list[int]) -> str:
    shown = ", ".join(f"{step:,}" for step in steps[:5])
    return shown + (f" and {len(steps) - 5} more" if len(steps) > 5 else "")
