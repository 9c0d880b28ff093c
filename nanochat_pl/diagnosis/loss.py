"""doctor loss: the pattern of a run's loss, named, drawn, and what to do about it."""

import math
from collections import Counter

from nanochat_pl.core.findings import read_findings
from nanochat_pl.core.run_folder import RunFolder, as_object, read_object
from nanochat_pl.diagnosis.curve import Curve
from nanochat_pl.diagnosis.curve_picture import draw_curve
from nanochat_pl.diagnosis.diagnosis import Diagnosis, Observation, examining
from nanochat_pl.diagnosis.patterns import FEWEST, Seen, find_patterns
from nanochat_pl.reporting.records import as_number

PICTURE = "loss-diagnosis.png"
ABOUT_CURVES = ("loss_spike", "not_finite", "plateau", "divergence", "gradient_norm", "update_ratio")
"""Kinds of the monitor's findings that belong here."""
REWARD = "rl/reward"


def diagnose(run: RunFolder) -> Diagnosis:
    """Read metrics.csv, name the pattern, and draw it into the run's folder."""
    diagnosis = Diagnosis("loss", str(run.path))
    metrics: dict[str, list[tuple[int, float]]] = {}
    with examining(diagnosis, "metrics.csv"):
        metrics = run.read_metrics()
    if run.path.name == "rl":
        _judge_rewards(diagnosis, metrics)
        return diagnosis
    losses = metrics.get("train/loss", [])
    if not losses:
        diagnosis.info(
            "metrics.csv has no training loss yet." if run.metrics.exists() else "There is no metrics.csv yet."
        )
        return diagnosis
    resolved, status = read_object(run.resolved), run.read_summary().get("status")
    vocab_size = as_number(as_object(resolved.get("model")).get("vocab_size"))
    seen = Seen(
        train=Curve.of(losses),
        validation=metrics.get("val/loss", []),
        rate=metrics.get("train/lr_multiplier", []),
        finished=status == "finished",
        lr_scale=as_number(resolved.get("lr_scale")),
        guessing=math.log(vocab_size) if vocab_size and vocab_size > 1 else None,
    )
    with examining(diagnosis, "The loss"):
        patterns = find_patterns(seen)
        for pattern in patterns:
            said = f"{pattern.name.capitalize()}. {pattern.what}"
            diagnosis.findings.append(Observation(pattern.severity, said, pattern.advice, pattern.evidence))
        if diagnosis.sound:
            _say_healthy(diagnosis, seen)
        _monitored(diagnosis, run)
        if status == "diverged" and diagnosis.sound:
            diagnosis.wrong(
                "The run ended because its loss or weights were not finite, between two rows of metrics.csv.",
                "Lower horizon.lr_scale or set optim.grad_clip=1.0, and start over with run.fresh=true.",
            )
        if len(seen.train) > 1:
            try:
                draw_curve(run.path / PICTURE, f"{run.path.parent.name} / {run.path.name}", seen, patterns)
                diagnosis.artifacts.append(run.path / PICTURE)
            except (OSError, RuntimeError) as error:
                diagnosis.info(f"The picture could not be written: {error}")
    if status == "running" and not run.is_held():
        diagnosis.info("The run was cut off; the same training command goes on with it.")
    return diagnosis


def _say_healthy(diagnosis: Diagnosis, seen: Seen) -> None:
    curve = seen.train
    if len(curve) < FEWEST:
        diagnosis.info(f"{len(curve)} values of the loss: too few to tell a pattern.")
        return
    validation = f"; validation {seen.validation[-1][1]:.3f}" if seen.validation else ""
    diagnosis.good(
        f"Healthy. The loss falls from {curve.start:.3f} to {curve.end:.3f} in {curve.steps[-1]:,.0f} steps"
        f"{validation}."
    )


def _judge_rewards(diagnosis: Diagnosis, metrics: dict[str, list[tuple[int, float]]]) -> None:
    """Of rl: its loss is weighted by advantages and says nothing by itself."""
    rewards = Curve.of(metrics.get(REWARD, []))
    if len(rewards) < FEWEST:
        diagnosis.info(f"{len(rewards)} values of the reward: too few to tell a pattern.")
        return
    start, end = float(rewards.level[: len(rewards) // 4].mean()), float(rewards.level[-len(rewards) // 4 :].mean())
    evidence = {"start": start, "end": end}
    if not max(rewards.values):
        diagnosis.wrong(
            "No answer was ever rewarded, so that nothing is learned.",
            "Begin with a model that gives some right answers (stage=sft longer), or ask something easier (task=).",
            **evidence,
        )
    elif end < start - max(0.02, 2 * float(rewards.spread.mean()) / len(rewards) ** 0.5):
        diagnosis.warn("The reward falls.", "Lower horizon.lr_scale, with run.fresh=true.", **evidence)
    else:
        diagnosis.good("The reward does not fall.", **evidence)


def _monitored(diagnosis: Diagnosis, run: RunFolder) -> None:
    """What was found while it trained."""
    findings = [finding for finding in read_findings(run) if finding.kind in ABOUT_CURVES]
    counts = Counter(finding.kind for finding in findings)
    last = {finding.kind: finding for finding in findings}
    for kind, count in counts.items():
        times = f" ({count} times, this one last)" if count > 1 else ""
        diagnosis.info(f"The monitor at step {last[kind].step}: {last[kind].message}{times}")
